"""The shop's read model.

`evolve` gets a cart's row so far (None at first) and its next event, and returns the next row.
"""

from esops import RecordedEvent, fold


@fold(key="stream")
def cart_summary(row: dict | None, event: RecordedEvent) -> dict | None:
    data = event.json()
    at = {"position": int(str(event.position))}
    match event.type:
        case "shopping_cart_opened":
            return {
                "cart_id": event.stream,
                "client": data["ClientId"],
                "items": 0,
                "total": 0,
                "status": "open",
                **at,
            }
        case "product_item_added":
            return {**row, **at, **changed(row, data, +1)}
        case "product_item_removed":
            return {**row, **at, **changed(row, data, -1)}
        case "shopping_cart_confirmed":
            return {**row, **at, "status": "confirmed"}
        case "shopping_cart_canceled":
            return {**row, **at, "status": "canceled"}
    return row


def changed(row: dict, data: dict, sign: int) -> dict:
    quantity = sign * data["Quantity"]
    return {"items": row["items"] + quantity, "total": row["total"] + quantity * data["UnitPrice"]}
