"""The shop's projection in every kind: the same rows, computed in five ways."""

from __future__ import annotations

import json

from tests.support import shop

HANDLERS = """
from esops import Handlers

cart_summary = Handlers()

@cart_summary.on("shopping_cart_opened")
def opened(event, write):
    write.upsert("cart_summary", {"cart_id": event.stream, "client": event.json()["ClientId"], "items": 0, "total": 0,
                                  "status": "open", "position": event.position[0]})

@cart_summary.on("product_item_added", "product_item_removed")
def changed(event, write):
    data = event.json()
    count = data["Quantity"] if event.type == "product_item_added" else -data["Quantity"]
    write.increment("cart_summary", {"cart_id": event.stream}, {"items": count, "total": count * data["UnitPrice"]})
    write.update("cart_summary", {"cart_id": event.stream}, {"position": event.position[0]})

@cart_summary.on("shopping_cart_confirmed", "shopping_cart_canceled")
def ended(event, write):
    write.update("cart_summary", {"cart_id": event.stream},
                 {"status": event.type.rpartition("_")[2], "position": event.position[0]})
"""

SQL = """
INSERT INTO {table} AS t (cart_id, client, items, total, status, position)
SELECT stream_id,
       coalesce(max(data ->> 'ClientId') FILTER (WHERE type = 'shopping_cart_opened'), ''),
       coalesce(sum(CASE type WHEN 'product_item_added' THEN 1 WHEN 'product_item_removed' THEN -1
       END * (data ->> 'Quantity')::int), 0),
       coalesce(sum(CASE type WHEN 'product_item_added' THEN 1 WHEN 'product_item_removed' THEN -1
       END
                    * (data ->> 'Quantity')::int * (data ->> 'UnitPrice')::numeric), 0),
       coalesce(max(split_part(type, '_', 3)) FILTER (WHERE type IN ('shopping_cart_confirmed',
       'shopping_cart_canceled')), 'open'),
       max(seq_id)
  FROM shop.mt_events WHERE seq_id > :after AND seq_id <= :until GROUP BY stream_id
ON CONFLICT (cart_id) DO UPDATE SET
    client = CASE WHEN EXCLUDED.client <> '' THEN EXCLUDED.client ELSE t.client END,
    items = t.items + EXCLUDED.items, total = t.total + EXCLUDED.total,
    status = CASE WHEN EXCLUDED.status <> 'open' THEN EXCLUDED.status ELSE t.status END,
    position = EXCLUDED.position
"""

NODE = """
// A fold in JavaScript: the rows of a batch are read when first needed, and written once at its end.
const readline = require('node:readline');
const lines = readline.createInterface({ input: process.stdin, terminal: false });
const send = document => process.stdout.write(JSON.stringify(document) + '\\n');
const rows = new Map();
let waiting = null;

const ask = key => new Promise(resolve => { waiting = resolve; send({ type: 'get', id: 1, table: 'cart_summary', key: { cart_id: key } }); });

async function batch(message) {
  const touched = new Set();
  for (const event of message.events) {
    const { stream, type, data } = event;
    if (process.env.POISON && data && data.ClientId === process.env.POISON) {
      send({ type: 'poison', event: event.id, error: 'I cannot' });
      return;
    }
    if (process.env.DIE && data && data.ClientId === process.env.DIE) process.exit(3);
    let row = rows.get(stream);
    if (type === 'shopping_cart_opened') row = { cart_id: stream, client: data.ClientId, items: 0, total: 0, status: 'open' };
    else if (!row) row = await ask(stream);
    if (type.startsWith('product_item')) {
      const count = (type === 'product_item_added' ? 1 : -1) * data.Quantity;
      row = { ...row, items: row.items + count, total: Number(row.total) + count * data.UnitPrice };
    } else if (type !== 'shopping_cart_opened') row = { ...row, status: type.split('_').pop() };
    row.position = Number(event.position);
    rows.set(stream, row);
    touched.add(stream);
  }
  send({ type: 'write', ops: [...touched].map(stream => ({ op: 'upsert', table: 'cart_summary', row: rows.get(stream) })) });
  send({ type: 'done', number: message.number });
}

lines.on('line', line => {
  const message = JSON.parse(line);
  if (message.type === 'hello') send({ type: 'ready', protocol: 1 });
  else if (message.type === 'row') waiting(message.row);
  else if (message.type === 'batch') batch(message);
});
"""

KINDS = ("fold", "handlers", "sql", "process")


def configure(project, dsn: str, kind: str, name: str = "cart_summary", options: str = "") -> None:
    """The shop with its projection in one kind."""
    shop.configure(project, dsn)
    how = {
        "fold": 'python = "shop_projections:cart_summary"',
        "handlers": 'kind = "handlers"\npython = "shop_handlers:cart_summary"',
        "sql": 'kind = "sql"\nstatement = "cart_summary_statement.sql"',
        "process": 'kind = "process"\ncommand = ["node", "cart_summary.js"]\ntimeout = '
        f"{json.dumps('20s')}",
    }[kind]
    project.write("shop_handlers.py", HANDLERS)
    project.write("cart_summary_statement.sql", SQL)
    (project.folder / "cart_summary.js").write_text(NODE)
    text = (project.folder / "esops.toml").read_text()
    text = text.replace('python = "shop_projections:cart_summary"', f"{how}\n{options}")
    (project.folder / "esops.toml").write_text(text)
