-- Histories of live carts: each is opened, then filled and emptied for ever. {of} gives the number of the stream that the
-- event n belongs to; the payloads are those of the demo's carts.
CREATE TEMPORARY TABLE generated ON COMMIT DROP AS
WITH numbered AS (
    SELECT n, cart, row_number() OVER (PARTITION BY cart ORDER BY n) AS k
    FROM (SELECT n, {of} AS cart FROM generate_series(1, {events}) AS n) AS of_streams
)
SELECT n AS seq_id, 'cart-' || lpad(cart::text, 8, '0') AS stream_id, k AS version,
       CASE WHEN k = 1 THEN 'shopping_cart_opened'
            WHEN k % 4 = 0 THEN 'product_item_removed'
            ELSE 'product_item_added' END AS type,
       CASE WHEN k = 1 THEN jsonb_build_object('ClientId', 'client-' || cart % 5000, 'OpenedAt', now())
            ELSE jsonb_build_object('ProductId', 'product-' || (cart * 7 + CASE WHEN k % 4 = 0 THEN k - 1 ELSE k END) % 200,
                                    'Quantity', CASE WHEN k % 4 = 0 THEN 1 ELSE cart % 3 + 1 END,
                                    'UnitPrice', 5 + (cart * 13 + CASE WHEN k % 4 = 0 THEN k - 1 ELSE k END) % 95) END AS data
FROM numbered;

INSERT INTO {schema}.mt_streams (id, type, version)
SELECT stream_id, 'shopping_cart', max(version) FROM generated GROUP BY stream_id;

INSERT INTO {schema}.mt_events (seq_id, id, stream_id, version, data, type)
SELECT seq_id, gen_random_uuid(), stream_id, version, data, type FROM generated ORDER BY seq_id;

SELECT setval('{schema}.mt_events_sequence', {events});
