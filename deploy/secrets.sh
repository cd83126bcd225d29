#!/bin/sh
# Makes what the nodes of docker-compose.yml must know and nobody else: keys and passwords, a file each, in
# deploy/secrets. What is there is kept; remove a file to have it made anew. Needs openssl (1.1.1 or newer).
#
#   deploy/secrets.sh [DIRECTORY]
set -eu
umask 077
here=$(cd "$(dirname "$0")" && pwd)
dir=${1:-$here/secrets}
mkdir -p "$dir"

hex() { od -An -v -tx1 | tr -d ' \n'; }
random() { openssl rand 24 | hex; }
# A file appears whole or not at all.
keep() { if [ -s "$dir/$1" ]; then cat > /dev/null; else cat > "$dir/$1.new" && mv "$dir/$1.new" "$dir/$1"; fi; }

if [ ! -s "$dir/signing.key" ]; then
    # Ed25519 (RFC 8410): the key is the last 32 bytes of either form.
    openssl genpkey -algorithm ed25519 -outform DER -out "$dir/key.der"
    openssl pkey -inform DER -in "$dir/key.der" -pubout -outform DER | tail -c 32 | hex > "$dir/control.pub"
    tail -c 32 "$dir/key.der" | hex > "$dir/signing.key"
    rm "$dir/key.der"
fi
random | keep admin.password
random | keep grafana.password
random | keep route.password
for user in control-1 edge-1 edge-2 edge-3 gateway-1 producer sys; do
    random | keep "nats-$user.password"
done

# What the shell that starts a NATS server reads. Always made from the others, so that it never says something else. The
# server takes a variable for a piece of its configuration: in double quotes it is a text, whatever its digits look like.
route=$(cat "$dir/route.password")
{
    for user in control-1 edge-1 edge-2 edge-3 gateway-1 producer sys; do
        echo "$(echo "$user" | tr 'a-z-' 'A-Z_')_PASSWORD='\"$(cat "$dir/nats-$user.password")\"'"
    done
    echo "ROUTE_PASSWORD='\"$route\"'"
    for n in 1 2 3; do echo "ROUTE_$n='\"nats-route://server:$route@nats-$n:6222\"'"; done
} > "$dir/nats.env.new"
mv "$dir/nats.env.new" "$dir/nats.env"

# Nodes run as the owner of these files. For root, who must not be that owner, it is the user of the image.
if [ "$(id -u)" = 0 ]; then
    chown -R 65532:65532 "$dir"
elif [ "$dir" = "$here/secrets" ]; then
    env=$here/../.env
    { grep -v '^CAMEO_USER=' "$env" 2> /dev/null || true; echo "CAMEO_USER=$(id -u):$(id -g)"; } > "$env.new"
    mv "$env.new" "$env"
fi
echo "Secrets are in $dir; the password of the user admin is in admin.password."
