# The steward: makes, rotates, rewraps and retires KEKs, and signs records, policies and checkpoints.
# It can't unwrap a data key, nor make or change a KEK so that anybody could read or delete it.

# Creation, rotate, config and trim: all lie below this path, and only these parameters are taken.
path "MOUNT/keys/mv-*" {
  capabilities = ["create", "read", "update"]
  allowed_parameters = {
    "type"                   = ["aes256-gcm96"]
    "derived"                = ["true", true]
    "min_decryption_version" = []
    "min_encryption_version" = []
    "min_available_version"  = []
  }
}

path "MOUNT/rewrap/mv-*" {
  capabilities       = ["update"]
  allowed_parameters = { "batch_input" = [], "ciphertext" = [] }
}

path "MOUNT/sign/sign-record" {
  capabilities       = ["update"]
  allowed_parameters = { "input" = [] }
}

path "MOUNT/sign/sign-log" {
  capabilities       = ["update"]
  allowed_parameters = { "input" = [] }
}

path "MOUNT/sign/sign-bundle" {
  capabilities       = ["update"]
  allowed_parameters = { "input" = [] }
}

path "MOUNT/sign/sign-opa" {
  capabilities = ["update"]
  allowed_parameters = {
    "input"                = []
    "marshaling_algorithm" = ["jws"]
    "hash_algorithm"       = ["sha2-256"]
  }
}

path "MOUNT/keys/sign-record" {
  capabilities = ["read"]
}

path "MOUNT/keys/sign-log" {
  capabilities = ["read"]
}

path "MOUNT/keys/sign-bundle" {
  capabilities = ["read"]
}

path "MOUNT/keys/sign-opa" {
  capabilities = ["read"]
}

# Not needed, and refused even where another policy of the same token would allow it.
path "MOUNT/decrypt/*" {
  capabilities = ["deny"]
}

path "MOUNT/datakey/*" {
  capabilities = ["deny"]
}

path "MOUNT/export/*" {
  capabilities = ["deny"]
}

path "MOUNT/backup/*" {
  capabilities = ["deny"]
}

path "auth/token/renew-self" {
  capabilities = ["update"]
}
