-- all --
-- The states of all versions, and what operators ask for of their projections.
SELECT v.projection, v.version, v.state, c.paused, c.postponed, c.switch_now, c.limits, c.by,
       c.updated_at
  FROM esops.versions v
  LEFT JOIN esops.controls c USING (projection);
