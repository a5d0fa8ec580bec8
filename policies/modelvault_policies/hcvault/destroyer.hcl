# The destroyer: destroys a model's KEK, and with it every copy of its weights. Nothing else.

path "MOUNT/keys/mv-*" {
  capabilities       = ["delete", "read", "update"]
  allowed_parameters = { "deletion_allowed" = ["true", true] }
}

path "auth/token/renew-self" {
  capabilities = ["update"]
}
