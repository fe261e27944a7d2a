// What an application in Node does: append, read, subscribe, on a client of its own. argv: package, connection string.
const [package_, uri] = process.argv.slice(2);
const client_ = await import(package_);
const Client = client_.EventStoreDBClient ?? client_.KurrentDBClient;
const { jsonEvent, START, END, eventTypeFilter, persistentSubscriptionToStreamSettingsFromDefaults } = client_;
const client = Client.connectionString(uri);
const id = Math.random().toString(16).slice(2);
const stream = `node${id}-1`, kind = `happened${id}`;
const told = {};

const no = { expectedRevision: "no_stream", streamState: "no_stream" }, five = { expectedRevision: 5n, streamState: 5n };
const appended = await client.appendToStream(stream, [1, 2, 3].map((n) => jsonEvent({ type: kind, data: { n } })), no);
told.next = String(appended.nextExpectedRevision);
try {
  await client.appendToStream(stream, [jsonEvent({ type: kind, data: {} })], five);
} catch (error) {
  told.wrong = error.type ?? error.name;
}
const read = async (events) => { const found = []; for await (const { event } of events) found.push(event.data.n); return found; };
told.forwards = await read(client.readStream(stream, { direction: "forwards", fromRevision: START }));
told.backwards = await read(client.readStream(stream, { direction: "backwards", fromRevision: END, maxCount: 2 }));
try {
  await read(client.readStream(`${stream}-not`));
} catch (error) {
  told.missing = error.type ?? error.name;
}
told.all = [];
for await (const { event } of client.readAll({ direction: "backwards", fromPosition: END, maxCount: 2000 })) {
  if (event?.streamId === stream) told.all.push(event.data.n);
}
const subscription = client.subscribeToAll({ fromPosition: START, filter: eventTypeFilter({ regex: `^${kind}$` }) });
told.subscribed = [];
for await (const { event } of subscription) {
  told.subscribed.push(event.data.n);
  if (told.subscribed.length === 3) await client.appendToStream(stream, [jsonEvent({ type: kind, data: { n: 4 } })]);
  if (told.subscribed.length === 4) break;
}
await client.createPersistentSubscriptionToStream(stream, "group", persistentSubscriptionToStreamSettingsFromDefaults({ startFrom: START }));
const group = client.subscribeToPersistentSubscriptionToStream(stream, "group");
told.group = [];
for await (const message of group) {
  told.group.push(message.event.data.n);
  await group.ack(message);
  if (told.group.length === 4) break;
}
await client.setStreamMetadata(stream, { maxCount: 2 });
told.readable = await read(client.readStream(stream, { direction: "forwards", fromRevision: START }));
await client.deletePersistentSubscriptionToStream(stream, "group");
await client.deleteStream(stream, { expectedRevision: "any" });
try {
  await read(client.readStream(stream));
} catch (error) {
  told.deleted = error.type ?? error.name;
}
console.log(JSON.stringify(told));
process.exit(0);
