-- differs --
-- Whether a view reads with the rights of its readers, and whether its owner is no member of the
-- role that owns the table.
SELECT EXISTS (SELECT FROM pg_options_to_table(v.reloptions)
                WHERE option_name = 'security_invoker' AND option_value::boolean),
       NOT pg_has_role(v.relowner, t.relowner, 'USAGE')
  FROM pg_class v, pg_class t WHERE v.oid = %(view)s AND t.oid = %(table)s;
