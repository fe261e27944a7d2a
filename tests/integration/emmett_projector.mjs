// Emmett's own async projector: argv: connection string, "idle" to stop in order once all is read.
// Each event adds one to its stream's row of `applied`, so an event that comes twice counts twice.
// It says "ready" when it has registered, and stops in order when its input ends.
import {
  postgreSQLEventStoreConsumer,
  postgreSQLProjector,
  postgreSQLRawSQLProjection,
} from "@event-driven-io/emmett-postgresql";
import { rawSql } from "@event-driven-io/dumbo";

const [connectionString, mode, ...types] = process.argv.slice(2);
const canHandle = types.length ? types : ["ItemAdded", "Closed"];
const quoted = (text) => `'${text.replaceAll("'", "''")}'`;
const projection = postgreSQLRawSQLProjection({
  name: "applied",
  canHandle,
  evolve: (event) =>
    rawSql(
      `INSERT INTO applied VALUES (${quoted(event.metadata.streamName)}, 1)
       ON CONFLICT (stream) DO UPDATE SET events = applied.events + 1`,
    ),
});
const consumer = postgreSQLEventStoreConsumer({
  connectionString,
  processors: [
    postgreSQLProjector({
      projection,
      hooks: { onStart: () => setTimeout(() => console.log("ready"), 0) },
    }),
  ],
  ...(mode === "idle" ? { stopWhen: { noMessagesLeft: true } } : {}),
});
if (mode !== "idle") {
  process.stdin.resume();
  process.stdin.on("end", () => consumer.stop());
}
try {
  await consumer.start();
  await consumer.close();
  process.exit(0);
} catch (error) {
  console.error(String(error));
  process.exit(1);
}
