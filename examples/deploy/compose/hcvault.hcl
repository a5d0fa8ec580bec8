ui            = false
disable_mlock = true # as it must be with raft; turn the machine's swap off
api_addr      = "https://hcvault:8200"
cluster_addr  = "https://hcvault:8201"

storage "raft" {
  path    = "/var/lib/hcvault"
  node_id = "hcvault"

  performance_multiplier = 1
}

listener "tcp" {
  address                      = "0.0.0.0:8200"
  cluster_address              = "0.0.0.0:8201"
  tls_cert_file                = "/run/secrets/hcvault.pem"
  tls_key_file                 = "/run/secrets/hcvault.key"
  max_request_size             = 134217728 # a manifest of many files is signed whole
  max_json_string_value_length = 100663296
}
