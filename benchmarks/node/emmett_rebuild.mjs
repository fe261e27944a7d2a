// Emmett's own rebuild of a projection: argv: connection string, "tables" to make the event store's, or "rebuild".
import { getPostgreSQLEventStore, pongoSingleStreamProjection, rebuildPostgreSQLProjections } from "@event-driven-io/emmett-postgresql";

const [connectionString, what] = process.argv.slice(2);
const carts = pongoSingleStreamProjection({
  collectionName: "carts",
  canHandle: ["CartOpened", "ItemAdded", "CartConfirmed"],
  evolve: (document, { type, data }) => {
    if (type === "CartOpened") return { client: data.client, items: 0, total: 0, status: "open" };
    const row = document ?? { client: "", items: 0, total: 0, status: "open" };
    if (type === "ItemAdded") return { ...row, items: row.items + data.quantity, total: row.total + data.quantity * data.price };
    return { ...row, status: "confirmed" };
  },
});

const store = getPostgreSQLEventStore(connectionString, { projections: [{ type: "async", projection: carts }] });
await store.schema.migrate();
await store.close();
if (what === "rebuild") {
  const consumer = rebuildPostgreSQLProjections({ connectionString, projections: [carts] });
  const began = performance.now();
  await consumer.start();
  const seconds = (performance.now() - began) / 1000;
  await consumer.close();
  console.log(JSON.stringify({ seconds }));
}
