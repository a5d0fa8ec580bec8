# What OPA's decision log leaves out: the token's claims may hold what is nobody's business.
package system.log

import rego.v1

mask contains "/input/subject/claims"
