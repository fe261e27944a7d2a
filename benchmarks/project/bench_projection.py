"""The benchmark's fold: the same as in hand_loop.py."""

from esops import fold


@fold(key="stream")
def carts(row, event):
    """A cart's row."""
    data, kind, number = event.json(), event.type, event.position[0]
    if kind == "product_item_added":
        quantity = data["Quantity"]
        return {
            **row,
            "items": row["items"] + quantity,
            "total": row["total"] + quantity * data["UnitPrice"],
            "position": number,
        }
    if kind == "product_item_removed":
        quantity = -data["Quantity"]
        return {
            **row,
            "items": row["items"] + quantity,
            "total": row["total"] + quantity * data["UnitPrice"],
            "position": number,
        }
    if kind == "shopping_cart_opened":
        return {
            "cart_id": event.stream,
            "client": data["ClientId"],
            "items": 0,
            "total": 0,
            "status": "open",
            "position": number,
        }
    return {**row, "status": kind.rpartition("_")[2], "position": number}
