-- The tables of ledger schema 1, as postgresql was given them. History: never changed.
CREATE TABLE entries (
	seq BIGINT NOT NULL,
	id TEXT COLLATE "C" NOT NULL,
	tenant TEXT COLLATE "C",
	model TEXT COLLATE "C",
	document BYTEA NOT NULL,
	leaf_hash BYTEA NOT NULL,
	CONSTRAINT pk_entries PRIMARY KEY (seq),
	CONSTRAINT uq_entries_id UNIQUE (id)
);
CREATE INDEX ix_entries_tenant_model_seq ON entries (tenant, model, seq);
CREATE TABLE head (
	id SERIAL NOT NULL CONSTRAINT ck_head_single CHECK (id = 1),
	seq BIGINT NOT NULL,
	policy_revision TEXT COLLATE "C",
	CONSTRAINT pk_head PRIMARY KEY (id)
);
CREATE TABLE models (
	tenant TEXT COLLATE "C" NOT NULL,
	model TEXT COLLATE "C" NOT NULL,
	owner TEXT COLLATE "C" NOT NULL,
	classification TEXT COLLATE "C" NOT NULL,
	serial BIGINT NOT NULL,
	record BYTEA NOT NULL,
	created_at BIGINT NOT NULL,
	kek_floor BIGINT NOT NULL,
	head_version BIGINT NOT NULL,
	head_manifest TEXT COLLATE "C",
	hidden_at BIGINT,
	CONSTRAINT pk_models PRIMARY KEY (tenant, model)
);
CREATE TABLE revocations (
	id TEXT COLLATE "C" NOT NULL,
	kind TEXT COLLATE "C" NOT NULL,
	target TEXT COLLATE "C" NOT NULL,
	at BIGINT NOT NULL,
	by TEXT COLLATE "C" NOT NULL,
	reason TEXT COLLATE "C" NOT NULL,
	until BIGINT,
	CONSTRAINT pk_revocations PRIMARY KEY (id),
	CONSTRAINT ck_revocations_kind CHECK (kind IN ('principal', 'lease', 'version'))
);
CREATE INDEX ix_revocations_kind_target ON revocations (kind, target);
CREATE TABLE keys (
	artifact TEXT COLLATE "C" NOT NULL,
	tenant TEXT COLLATE "C" NOT NULL,
	model TEXT COLLATE "C" NOT NULL,
	wrapped BYTEA NOT NULL,
	kek_version BIGINT NOT NULL,
	CONSTRAINT pk_keys PRIMARY KEY (artifact),
	CONSTRAINT fk_keys_tenant_model FOREIGN KEY(tenant, model) REFERENCES models (tenant, model)
);
CREATE INDEX ix_keys_tenant_model_kek_version ON keys (tenant, model, kek_version);
CREATE TABLE leases (
	id TEXT COLLATE "C" NOT NULL,
	ask_hash TEXT COLLATE "C" NOT NULL,
	subject TEXT COLLATE "C" NOT NULL,
	key_hash TEXT COLLATE "C" NOT NULL,
	bound INTEGER NOT NULL,
	tenant TEXT COLLATE "C" NOT NULL,
	model TEXT COLLATE "C" NOT NULL,
	version BIGINT NOT NULL,
	manifest TEXT COLLATE "C" NOT NULL,
	purpose TEXT COLLATE "C" NOT NULL,
	action TEXT COLLATE "C" NOT NULL,
	paths BYTEA NOT NULL,
	bytes BIGINT NOT NULL,
	granted_at BIGINT NOT NULL,
	expires_at BIGINT NOT NULL,
	total_until BIGINT NOT NULL,
	revision TEXT COLLATE "C" NOT NULL,
	decision_id TEXT COLLATE "C" NOT NULL,
	ended_at BIGINT,
	end_reason TEXT COLLATE "C",
	entry_seq BIGINT NOT NULL,
	CONSTRAINT pk_leases PRIMARY KEY (id),
	CONSTRAINT ck_leases_bound CHECK (bound IN (0, 1)),
	CONSTRAINT ck_leases_bytes CHECK (bytes >= 0),
	CONSTRAINT ck_leases_total CHECK (expires_at <= total_until),
	CONSTRAINT fk_leases_tenant_model FOREIGN KEY(tenant, model) REFERENCES models (tenant, model),
	CONSTRAINT uq_leases_ask_hash UNIQUE (ask_hash),
	CONSTRAINT fk_leases_entry_seq FOREIGN KEY(entry_seq) REFERENCES entries (seq)
);
CREATE INDEX ix_leases_granted_at_id ON leases (granted_at, id);
CREATE INDEX ix_leases_held ON leases (subject, tenant, model, expires_at) WHERE ended_at IS NULL;
CREATE INDEX ix_leases_out ON leases (tenant, model, version, expires_at) WHERE ended_at IS NULL;
CREATE INDEX ix_leases_tenant_model_granted_at_id ON leases (tenant, model, granted_at, id);
CREATE TABLE uploads (
	id TEXT COLLATE "C" NOT NULL,
	tenant TEXT COLLATE "C" NOT NULL,
	model TEXT COLLATE "C" NOT NULL,
	artifact TEXT COLLATE "C" NOT NULL,
	subject TEXT COLLATE "C" NOT NULL,
	paths BYTEA NOT NULL,
	sizes BYTEA NOT NULL,
	recipient TEXT COLLATE "C" NOT NULL,
	created_at BIGINT NOT NULL,
	expires_at BIGINT NOT NULL,
	state TEXT COLLATE "C" NOT NULL,
	version BIGINT,
	entry_seq BIGINT,
	CONSTRAINT pk_uploads PRIMARY KEY (id),
	CONSTRAINT ck_uploads_state CHECK (state IN ('open', 'published', 'aborted')),
	CONSTRAINT fk_uploads_tenant_model FOREIGN KEY(tenant, model) REFERENCES models (tenant, model),
	CONSTRAINT uq_uploads_artifact UNIQUE (artifact),
	CONSTRAINT fk_uploads_entry_seq FOREIGN KEY(entry_seq) REFERENCES entries (seq)
);
CREATE INDEX ix_uploads_state_expires_at ON uploads (state, expires_at);
CREATE INDEX ix_uploads_subject_state_expires_at ON uploads (subject, state, expires_at);
CREATE INDEX ix_uploads_tenant_model_version ON uploads (tenant, model, version);
CREATE TABLE versions (
	tenant TEXT COLLATE "C" NOT NULL,
	model TEXT COLLATE "C" NOT NULL,
	version BIGINT NOT NULL,
	artifact TEXT COLLATE "C" NOT NULL,
	digest TEXT COLLATE "C" NOT NULL,
	manifest BYTEA NOT NULL,
	created_at BIGINT NOT NULL,
	created_by TEXT COLLATE "C" NOT NULL,
	size BIGINT NOT NULL,
	files BIGINT NOT NULL,
	hidden_at BIGINT,
	CONSTRAINT pk_versions PRIMARY KEY (tenant, model, version),
	CONSTRAINT uq_versions_tenant_model_digest UNIQUE (tenant, model, digest),
	CONSTRAINT fk_versions_tenant_model FOREIGN KEY(tenant, model) REFERENCES models (tenant, model),
	CONSTRAINT uq_versions_artifact UNIQUE (artifact)
);
CREATE INDEX ix_versions_hidden_at ON versions (hidden_at) WHERE hidden_at IS NOT NULL;
CREATE TABLE charges (
	lease TEXT COLLATE "C" NOT NULL,
	subject TEXT COLLATE "C" NOT NULL,
	day TEXT COLLATE "C" NOT NULL,
	bytes BIGINT NOT NULL,
	CONSTRAINT pk_charges PRIMARY KEY (lease),
	CONSTRAINT ck_charges_bytes CHECK (bytes >= 0),
	CONSTRAINT fk_charges_lease FOREIGN KEY(lease) REFERENCES leases (id)
);
CREATE INDEX ix_charges_subject_day_bytes ON charges (subject, day, bytes);
CREATE TABLE tags (
	tenant TEXT COLLATE "C" NOT NULL,
	model TEXT COLLATE "C" NOT NULL,
	tag TEXT COLLATE "C" NOT NULL,
	version BIGINT NOT NULL,
	serial BIGINT NOT NULL,
	record BYTEA NOT NULL,
	moved_at BIGINT NOT NULL,
	CONSTRAINT pk_tags PRIMARY KEY (tenant, model, tag),
	CONSTRAINT fk_tags_tenant_model_version FOREIGN KEY(tenant, model, version) REFERENCES versions (tenant, model, version)
);
CREATE INDEX ix_tags_tenant_model_version ON tags (tenant, model, version);
CREATE TABLE version_objects (
	tenant TEXT COLLATE "C" NOT NULL,
	model TEXT COLLATE "C" NOT NULL,
	version BIGINT NOT NULL,
	object TEXT COLLATE "C" NOT NULL,
	artifact TEXT COLLATE "C" NOT NULL,
	CONSTRAINT pk_version_objects PRIMARY KEY (tenant, model, version, object),
	CONSTRAINT fk_version_objects_tenant_model_version FOREIGN KEY(tenant, model, version) REFERENCES versions (tenant, model, version) ON DELETE CASCADE
);
CREATE INDEX ix_version_objects_artifact ON version_objects (artifact);
CREATE INDEX ix_version_objects_object ON version_objects (object);
INSERT INTO head (id, seq, policy_revision) VALUES (1, 0, NULL);
