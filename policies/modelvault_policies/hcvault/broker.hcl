# The broker: makes, wraps and unwraps data keys, and signs manifests. It can't make, change or
# read KEKs.

path "MOUNT/datakey/plaintext/mv-*" {
  capabilities        = ["update"]
  allowed_parameters  = { "context" = [] }
  required_parameters = ["context"]
}

# What a copy from another vault brings is wrapped here. "update" alone: no key is made on the way.
path "MOUNT/encrypt/mv-*" {
  capabilities        = ["update"]
  allowed_parameters  = { "plaintext" = [], "context" = [] }
  required_parameters = ["context"]
}

path "MOUNT/decrypt/mv-*" {
  capabilities        = ["update"]
  allowed_parameters  = { "ciphertext" = [], "context" = [] }
  required_parameters = ["context"]
}

path "MOUNT/sign/sign-manifest" {
  capabilities       = ["update"]
  allowed_parameters = { "input" = [] }
}

path "MOUNT/keys/sign-manifest" {
  capabilities = ["read"]
}

path "auth/token/renew-self" {
  capabilities = ["update"]
}
