-- serving --
-- The versions that serve now; whatever else happens to them is looked at when they are behind.
SELECT projection, version, position
  FROM esops.versions
 WHERE projection = ANY(%(names)s) AND state = 'active';
