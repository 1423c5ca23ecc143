-- The first characters of a key, by which people tell keys apart. Unknown for the keys there are: only digests are kept.

ALTER TABLE api_keys ADD COLUMN key_prefix TEXT;
