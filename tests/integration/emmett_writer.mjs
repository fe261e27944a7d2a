// Emmett's own event store appends: argv: connection string, seed, how many appends; "0" makes the tables alone.
import { getPostgreSQLEventStore } from "@event-driven-io/emmett-postgresql";

const [uri, seed, count] = process.argv.slice(2);
const store = getPostgreSQLEventStore(uri);
await store.schema.migrate();
for (let n = 0; n < Number(count); n++) {
  const events = Array.from({ length: 1 + (n % 3) }, (_, k) => ({ type: "ItemAdded", data: { n, k } }));
  await store.appendToStream(`cart-${seed}-${n % 20}`, events);
}
await store.close();
