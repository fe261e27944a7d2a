-- {events} events of carts with ten events each, in the order in which a busy shop would have written them: a cart lives while
-- some {window} others are begun. Each is opened, filled (with a removal now and then), and confirmed or abandoned.
CREATE TEMPORARY TABLE generated ON COMMIT DROP AS
SELECT row_number() OVER (ORDER BY cart + k * {window} / 10.0 + (hashint4(cart * 31 + k) & 1023) / 1024.0) + {after} AS seq_id,
       'cart-' || lpad(({first_cart} + cart)::text, 8, '0') AS stream_id,
       k AS version,
       CASE WHEN k = 1 THEN 'shopping_cart_opened'
            WHEN k = 10 THEN CASE WHEN cart % 7 = 0 THEN 'shopping_cart_canceled' ELSE 'shopping_cart_confirmed' END
            WHEN k % 4 = 0 THEN 'product_item_removed'
            ELSE 'product_item_added' END AS type,
       CASE WHEN k = 1 THEN jsonb_build_object('ClientId', 'client-' || cart % 5000, 'OpenedAt', now())
            WHEN k = 10 THEN jsonb_build_object('At', now())
            ELSE jsonb_build_object('ProductId', 'product-' || (cart * 7 + CASE WHEN k % 4 = 0 THEN k - 1 ELSE k END) % 200,
                                    'Quantity', CASE WHEN k % 4 = 0 THEN 1 ELSE cart % 3 + 1 END,
                                    'UnitPrice', 5 + (cart * 13 + CASE WHEN k % 4 = 0 THEN k - 1 ELSE k END) % 95) END AS data
FROM generate_series(1, {events} / 10) AS cart, generate_series(1, 10) AS k;

INSERT INTO {schema}.mt_streams (id, type, version)
SELECT stream_id, 'shopping_cart', 10 FROM generated WHERE version = 1;

INSERT INTO {schema}.mt_events (seq_id, id, stream_id, version, data, type)
SELECT seq_id, gen_random_uuid(), stream_id, version, data, type FROM generated ORDER BY seq_id;

SELECT setval('{sequence}', (SELECT max(seq_id) FROM {schema}.mt_events));
