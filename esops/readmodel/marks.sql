-- keep --
INSERT INTO esops.marks (projection, version, position, mark) VALUES (%s, %s, %s, %s)
ON CONFLICT (projection, version)
   DO UPDATE SET position = EXCLUDED.position, mark = EXCLUDED.mark;

-- newest --
SELECT position, mark FROM esops.marks WHERE projection = %s AND version = %s;

-- older --
SELECT position, mark FROM esops.older_marks WHERE projection = %s AND version = %s
 ORDER BY at DESC;

-- put_aside --
INSERT INTO esops.older_marks (projection, version, position, mark)
SELECT projection, version, position, mark FROM esops.marks
 WHERE projection = %(projection)s AND version = %(version)s
    ON CONFLICT DO NOTHING;

-- thin_out --
-- Of all marks whose age is between two powers of two seconds, the oldest stays.
DELETE FROM esops.older_marks o
 USING (SELECT position, row_number() OVER (
                   PARTITION BY floor(log(2, 1 + greatest(
                       extract(epoch FROM clock_timestamp() - at), 0)::numeric))
                   ORDER BY at) AS place
          FROM esops.older_marks
         WHERE projection = %(projection)s AND version = %(version)s) ranked
 WHERE o.projection = %(projection)s AND o.version = %(version)s
   AND o.position = ranked.position AND ranked.place > 1;
