-- What the events say, by plain SQL and no projection, against what the read model shows.
WITH said AS (
    SELECT stream_id AS cart_id,
           coalesce(sum(q), 0) AS items,
           coalesce(sum(q * (data ->> 'UnitPrice')::numeric), 0) AS total,
           max(seq_id) AS position
    FROM shop.mt_events,
         LATERAL (SELECT CASE type WHEN 'product_item_added' THEN 1 WHEN 'product_item_removed' THEN -1 ELSE 0 END
                         * (data ->> 'Quantity')::integer AS q) AS signed
    GROUP BY stream_id
)
SELECT count(*), count(*) FILTER (WHERE (s.items, s.total, s.position) IS DISTINCT FROM (c.items, c.total, c.position))
FROM said AS s FULL JOIN cart_summary AS c USING (cart_id);
