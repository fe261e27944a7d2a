// Emmett's own event store with an inline projection: argv: connection string, seed, factor of the logic; "make" instead
// of a seed makes the tables alone. It says "ready" when its projection is registered, appends from the first line of its
// input to the end of it, and prints what came of it. An append of another instance that meets the registration would
// leave its document as it was (facts/emmett.md).
import { getPostgreSQLEventStore, pongoSingleStreamProjection } from "@event-driven-io/emmett-postgresql";
import { projections } from "@event-driven-io/emmett";
import { once } from "node:events";
import { setTimeout } from "node:timers/promises";

const [uri, seed, factor] = process.argv.slice(2);
const carts = pongoSingleStreamProjection({
  collectionName: "carts",
  canHandle: ["ItemAdded"],
  initialState: () => ({ items: 0 }),
  evolve: (cart, event) => ({ ...cart, items: cart.items + Number(factor) * event.data.quantity }),
});
const store = getPostgreSQLEventStore(uri, { projections: projections.inline([carts]) });
await store.schema.migrate();
if (seed === "make") {
  await store.appendToStream("cart-first", [{ type: "ItemAdded", data: { quantity: 1 } }]);
} else {
  let ended = false;
  console.log("ready");
  await once(process.stdin, "data");
  process.stdin.on("end", () => (ended = true)).resume();
  const told = { appends: 0, conflicts: 0, longest: 0, failures: [] };
  while (!ended) {
    const events = Array.from({ length: 1 + (told.appends % 3) }, () => ({
      type: "ItemAdded",
      data: { quantity: 1 + Math.floor(Math.random() * 4) },
    }));
    const since = performance.now();
    try {
      await store.appendToStream(`cart-${Math.floor(Math.random() * 200)}`, events);
      told.appends++;
    } catch (error) {
      // Two first appends to one stream, or two at once: the library leaves the second try to the application.
      if (/ExpectedVersion|duplicate key|Concurrency/i.test(`${error.name} ${error.message}`)) told.conflicts++;
      else told.failures.push(`${error.name}: ${error.message}`);
    }
    told.longest = Math.max(told.longest, performance.now() - since);
    await setTimeout(10); // else they take the whole machine
  }
  console.log(JSON.stringify(told));
}
await store.close();
process.exit(0);
