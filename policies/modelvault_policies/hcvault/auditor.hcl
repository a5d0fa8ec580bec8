# The auditor: sees which keys there are and how they are set, and changes nothing.

path "MOUNT/keys" {
  capabilities = ["list"]
}

path "MOUNT/keys/*" {
  capabilities = ["read"]
}

path "MOUNT/config/keys" {
  capabilities = ["read"]
}

path "auth/token/renew-self" {
  capabilities = ["update"]
}
