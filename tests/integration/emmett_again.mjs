// Emmett's own event store appends to names whose streams have left: argv: connection string, streams, then each
// expectation (none, new, or a version). Prints for each the next version, or null where it is refused.
import { getPostgreSQLEventStore } from "@event-driven-io/emmett-postgresql";
import { STREAM_DOES_NOT_EXIST } from "@event-driven-io/emmett";

const [uri, ...appends] = process.argv.slice(2);
const store = getPostgreSQLEventStore(uri);
const told = [];
for (const append of appends) {
  const [stream, expected] = append.split("=");
  const options = { none: undefined, new: { expectedStreamVersion: STREAM_DOES_NOT_EXIST } };
  const how = expected in options ? options[expected] : { expectedStreamVersion: BigInt(expected) };
  try {
    const done = await store.appendToStream(stream, [{ type: "ItemAdded", data: { expected } }], how);
    told.push(Number(done.nextExpectedStreamVersion));
  } catch (error) {
    if (!error.constructor.name.includes("ExpectedVersionConflict")) throw error;
    told.push(null);
  }
}
await store.close();
console.log(JSON.stringify(told));
