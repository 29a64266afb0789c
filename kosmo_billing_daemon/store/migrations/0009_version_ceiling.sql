-- No version above it was ever published. It is raised here, then in the broker's watermark, and only then are
-- greater versions published. So a database that went back, by a backup or a promoted standby, still learns from
-- one of the two what it must not speak below.
ALTER TABLE installation ADD COLUMN version_ceiling bigint NOT NULL DEFAULT 0;
-- What earlier releases gave stands below it.
UPDATE installation SET version_ceiling = (SELECT last_value + 1000000 FROM entitlement_versions)
WHERE EXISTS (SELECT FROM entitlements);
