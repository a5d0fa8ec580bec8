-- The tables of ledger schema 1, as sqlite was given them. History: never changed.
CREATE TABLE entries (
	seq INTEGER NOT NULL,
	id TEXT NOT NULL,
	tenant TEXT,
	model TEXT,
	document BLOB NOT NULL,
	leaf_hash BLOB NOT NULL,
	CONSTRAINT pk_entries PRIMARY KEY (seq),
	CONSTRAINT uq_entries_id UNIQUE (id)
)
 STRICT;
CREATE INDEX ix_entries_tenant_model_seq ON entries (tenant, model, seq);
CREATE TABLE head (
	id INTEGER NOT NULL CONSTRAINT ck_head_single CHECK (id = 1),
	seq INTEGER NOT NULL,
	policy_revision TEXT,
	CONSTRAINT pk_head PRIMARY KEY (id)
)
 STRICT;
CREATE TABLE models (
	tenant TEXT NOT NULL,
	model TEXT NOT NULL,
	owner TEXT NOT NULL,
	classification TEXT NOT NULL,
	serial INTEGER NOT NULL,
	record BLOB NOT NULL,
	created_at INTEGER NOT NULL,
	kek_floor INTEGER NOT NULL,
	head_version INTEGER NOT NULL,
	head_manifest TEXT,
	hidden_at INTEGER,
	CONSTRAINT pk_models PRIMARY KEY (tenant, model)
)
 STRICT;
CREATE TABLE revocations (
	id TEXT NOT NULL,
	kind TEXT NOT NULL,
	target TEXT NOT NULL,
	at INTEGER NOT NULL,
	"by" TEXT NOT NULL,
	reason TEXT NOT NULL,
	until INTEGER,
	CONSTRAINT pk_revocations PRIMARY KEY (id),
	CONSTRAINT ck_revocations_kind CHECK (kind IN ('principal', 'lease', 'version'))
)
 STRICT;
CREATE INDEX ix_revocations_kind_target ON revocations (kind, target);
CREATE TABLE keys (
	artifact TEXT NOT NULL,
	tenant TEXT NOT NULL,
	model TEXT NOT NULL,
	wrapped BLOB NOT NULL,
	kek_version INTEGER NOT NULL,
	CONSTRAINT pk_keys PRIMARY KEY (artifact),
	CONSTRAINT fk_keys_tenant_model FOREIGN KEY(tenant, model) REFERENCES models (tenant, model)
)
 STRICT;
CREATE INDEX ix_keys_tenant_model_kek_version ON keys (tenant, model, kek_version);
CREATE TABLE leases (
	id TEXT NOT NULL,
	ask_hash TEXT NOT NULL,
	subject TEXT NOT NULL,
	key_hash TEXT NOT NULL,
	bound INTEGER NOT NULL,
	tenant TEXT NOT NULL,
	model TEXT NOT NULL,
	version INTEGER NOT NULL,
	manifest TEXT NOT NULL,
	purpose TEXT NOT NULL,
	action TEXT NOT NULL,
	paths BLOB NOT NULL,
	bytes INTEGER NOT NULL,
	granted_at INTEGER NOT NULL,
	expires_at INTEGER NOT NULL,
	total_until INTEGER NOT NULL,
	revision TEXT NOT NULL,
	decision_id TEXT NOT NULL,
	ended_at INTEGER,
	end_reason TEXT,
	entry_seq INTEGER NOT NULL,
	CONSTRAINT pk_leases PRIMARY KEY (id),
	CONSTRAINT ck_leases_bound CHECK (bound IN (0, 1)),
	CONSTRAINT ck_leases_bytes CHECK (bytes >= 0),
	CONSTRAINT ck_leases_total CHECK (expires_at <= total_until),
	CONSTRAINT fk_leases_tenant_model FOREIGN KEY(tenant, model) REFERENCES models (tenant, model),
	CONSTRAINT uq_leases_ask_hash UNIQUE (ask_hash),
	CONSTRAINT fk_leases_entry_seq FOREIGN KEY(entry_seq) REFERENCES entries (seq)
)
 STRICT;
CREATE INDEX ix_leases_granted_at_id ON leases (granted_at, id);
CREATE INDEX ix_leases_held ON leases (subject, tenant, model, expires_at) WHERE ended_at IS NULL;
CREATE INDEX ix_leases_out ON leases (tenant, model, version, expires_at) WHERE ended_at IS NULL;
CREATE INDEX ix_leases_tenant_model_granted_at_id ON leases (tenant, model, granted_at, id);
CREATE TABLE uploads (
	id TEXT NOT NULL,
	tenant TEXT NOT NULL,
	model TEXT NOT NULL,
	artifact TEXT NOT NULL,
	subject TEXT NOT NULL,
	paths BLOB NOT NULL,
	sizes BLOB NOT NULL,
	recipient TEXT NOT NULL,
	created_at INTEGER NOT NULL,
	expires_at INTEGER NOT NULL,
	state TEXT NOT NULL,
	version INTEGER,
	entry_seq INTEGER,
	CONSTRAINT pk_uploads PRIMARY KEY (id),
	CONSTRAINT ck_uploads_state CHECK (state IN ('open', 'published', 'aborted')),
	CONSTRAINT fk_uploads_tenant_model FOREIGN KEY(tenant, model) REFERENCES models (tenant, model),
	CONSTRAINT uq_uploads_artifact UNIQUE (artifact),
	CONSTRAINT fk_uploads_entry_seq FOREIGN KEY(entry_seq) REFERENCES entries (seq)
)
 STRICT;
CREATE INDEX ix_uploads_state_expires_at ON uploads (state, expires_at);
CREATE INDEX ix_uploads_subject_state_expires_at ON uploads (subject, state, expires_at);
CREATE INDEX ix_uploads_tenant_model_version ON uploads (tenant, model, version);
CREATE TABLE versions (
	tenant TEXT NOT NULL,
	model TEXT NOT NULL,
	version INTEGER NOT NULL,
	artifact TEXT NOT NULL,
	digest TEXT NOT NULL,
	manifest BLOB NOT NULL,
	created_at INTEGER NOT NULL,
	created_by TEXT NOT NULL,
	size INTEGER NOT NULL,
	files INTEGER NOT NULL,
	hidden_at INTEGER,
	CONSTRAINT pk_versions PRIMARY KEY (tenant, model, version),
	CONSTRAINT uq_versions_tenant_model_digest UNIQUE (tenant, model, digest),
	CONSTRAINT fk_versions_tenant_model FOREIGN KEY(tenant, model) REFERENCES models (tenant, model),
	CONSTRAINT uq_versions_artifact UNIQUE (artifact)
)
 STRICT;
CREATE INDEX ix_versions_hidden_at ON versions (hidden_at) WHERE hidden_at IS NOT NULL;
CREATE TABLE charges (
	lease TEXT NOT NULL,
	subject TEXT NOT NULL,
	day TEXT NOT NULL,
	bytes INTEGER NOT NULL,
	CONSTRAINT pk_charges PRIMARY KEY (lease),
	CONSTRAINT ck_charges_bytes CHECK (bytes >= 0),
	CONSTRAINT fk_charges_lease FOREIGN KEY(lease) REFERENCES leases (id)
)
 STRICT;
CREATE INDEX ix_charges_subject_day_bytes ON charges (subject, day, bytes);
CREATE TABLE tags (
	tenant TEXT NOT NULL,
	model TEXT NOT NULL,
	tag TEXT NOT NULL,
	version INTEGER NOT NULL,
	serial INTEGER NOT NULL,
	record BLOB NOT NULL,
	moved_at INTEGER NOT NULL,
	CONSTRAINT pk_tags PRIMARY KEY (tenant, model, tag),
	CONSTRAINT fk_tags_tenant_model_version FOREIGN KEY(tenant, model, version) REFERENCES versions (tenant, model, version)
)
 STRICT;
CREATE INDEX ix_tags_tenant_model_version ON tags (tenant, model, version);
CREATE TABLE version_objects (
	tenant TEXT NOT NULL,
	model TEXT NOT NULL,
	version INTEGER NOT NULL,
	object TEXT NOT NULL,
	artifact TEXT NOT NULL,
	CONSTRAINT pk_version_objects PRIMARY KEY (tenant, model, version, object),
	CONSTRAINT fk_version_objects_tenant_model_version FOREIGN KEY(tenant, model, version) REFERENCES versions (tenant, model, version) ON DELETE CASCADE
)
 STRICT;
CREATE INDEX ix_version_objects_artifact ON version_objects (artifact);
CREATE INDEX ix_version_objects_object ON version_objects (object);
INSERT INTO head (id, seq, policy_revision) VALUES (1, 0, NULL);
