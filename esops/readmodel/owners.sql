-- others --
-- Live versions of other projections with one of these relations, as a table or as a name that is
-- read.
SELECT DISTINCT v.projection, v.version, v.state, r.schema, r.name
  FROM esops.versions v
 CROSS JOIN jsonb_each(v.tables) t (read_as, physical)
 CROSS JOIN LATERAL (VALUES (t.physical ->> 0, t.physical ->> 1),
                            (t.physical ->> 0, t.read_as)) r (schema, name)
 WHERE v.projection <> %(projection)s AND v.state IN ('building', 'standby', 'active')
   AND (r.schema, r.name) IN
       (SELECT * FROM unnest(%(schemas)s::text[], %(names)s::text[]))
 ORDER BY 1, 2, 4, 5;

-- one_after_the_other --
SELECT pg_advisory_xact_lock(hashtextextended('esops:versions', 0));
