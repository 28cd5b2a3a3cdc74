-- When the credential was stored: a token with a short life is renewed near half of it.
ALTER TABLE connection ADD COLUMN obtained_at timestamptz;
UPDATE connection SET obtained_at = updated_at;
ALTER TABLE connection ALTER COLUMN obtained_at SET NOT NULL;
-- Until when the provider wants no request for this connection.
ALTER TABLE connection ADD COLUMN retry_at timestamptz;
-- When the provider's API has refused the access token; absent again with the next one.
ALTER TABLE connection ADD COLUMN rejected_at timestamptz;
