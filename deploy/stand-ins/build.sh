#!/bin/sh
# Where no image registry can be reached, builds stand-ins for the images that docker-compose.yml and deploy/Dockerfile
# name, under their very names, from Debian's packages and a NATS server that is here already. So the cluster is started
# and tested for real on such a machine. An image that is here, or can be pulled, is left as it is. Each stand-in says
# so: `docker image ls --filter label=cameo.stand-in`.
#
#   deploy/stand-ins/build.sh NATS_SERVER CACHE
#
# NATS_SERVER is the binary that stands in for its image; CACHE a directory for what was fetched. Must be run as root.
# There is no stand-in for Grafana, which Debian does not have, nor for Rust: the binary is built outside.
set -eu
nats_server=$1
mkdir -p "$2"
cache=$(cd "$2" && pwd)
release=trixie
mirror=${DEBIAN_MIRROR:-http://deb.debian.org/debian}
debian=debian:$release-slim
nats=nats:2.15.1-alpine
haproxy=haproxy:3.0-alpine
prometheus=prom/prometheus:v2.53.3

missing=
for image in $debian $nats $haproxy $prometheus; do
    docker image inspect "$image" > /dev/null 2>&1 || timeout 300 docker pull --quiet "$image" 2> /dev/null || missing="$missing $image"
done
[ -n "$missing" ] || exit 0
echo "stand-ins for:$missing"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
root=$work/root
mkdir "$root"

# A minimal Debian, and beside it the packages of the others, kept for the next time.
if [ ! -s "$cache/$release.tar" ] || [ ! -d "$cache/packages" ]; then
    command -v debootstrap > /dev/null || {
        apt-get update -qq
        DEBIAN_FRONTEND=noninteractive apt-get install -qq --yes --no-install-recommends debootstrap > /dev/null
    }
    debootstrap --variant=minbase --include=ca-certificates "$release" "$root" "$mirror" > "$work/log" 2>&1 || {
        tail -20 "$work/log" >&2
        exit 1
    }
    mkdir "$work/haproxy" "$work/prometheus"
    fetch() { chroot "$root" apt-get -qq --yes -o APT::Sandbox::User=root "$@" > /dev/null; }
    cp /etc/resolv.conf "$root/etc/resolv.conf"
    fetch clean
    fetch update
    # With all that they depend on; of Prometheus its programs alone, which depend on the C library.
    fetch install --download-only --no-install-recommends haproxy busybox
    mv "$root"/var/cache/apt/archives/*.deb "$work/haproxy"
    chroot "$root" sh -c 'cd /var/cache/apt/archives && apt-get -qq -o APT::Sandbox::User=root download prometheus' > /dev/null
    mv "$root"/var/cache/apt/archives/*.deb "$work/prometheus"
    rm -rf "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/* "$root"/usr/share/doc "$root"/usr/share/man \
        "$root"/usr/share/locale "$root"/var/log/* "$root"/dev/*
    rm -rf "$cache/packages"
    mkdir "$cache/packages"
    mv "$work/haproxy" "$work/prometheus" "$cache/packages"
    tar -C "$root" --numeric-owner -cf "$cache/$release.new" . && mv "$cache/$release.new" "$cache/$release.tar"
fi

wanted() { case " $missing " in *" $1 "*) true ;; *) false ;; esac; }
# Packages are unpacked, not installed: nothing of theirs is to run at that time.
unpack='for package in /packages/*.deb; do dpkg-deb -x "$package" /; done; ldconfig'

if wanted "$debian"; then
    docker import --change 'CMD ["bash"]' --change 'LABEL cameo.stand-in=debian' "$cache/$release.tar" "$debian" > /dev/null
fi

build() {
    docker build --label "cameo.stand-in=$1" --tag "$1" "$work/context" > "$work/log" 2>&1 || {
        tail -20 "$work/log" >&2
        exit 1
    }
    rm -rf "$work/context"
}

if wanted "$nats"; then
    mkdir -p "$work/context/packages"
    cp "$nats_server" "$work/context/nats-server"
    cp "$cache"/packages/haproxy/busybox_*.deb "$work/context/packages"
    cat > "$work/context/Dockerfile" << END
FROM $debian
COPY nats-server /usr/local/bin/nats-server
COPY packages /packages
RUN $unpack; ln -s busybox /usr/bin/wget
ENTRYPOINT ["nats-server"]
END
    build "$nats"
fi

if wanted "$haproxy"; then
    mkdir -p "$work/context/packages"
    cp "$cache"/packages/haproxy/*.deb "$work/context/packages"
    cat > "$work/context/Dockerfile" << END
FROM $debian
COPY packages /packages
RUN $unpack; ln -s busybox /usr/bin/wget; useradd --system --uid 99 haproxy
USER haproxy
ENV PATH=/usr/local/sbin:/usr/sbin:/usr/bin
STOPSIGNAL SIGUSR1
CMD ["haproxy", "-W", "-db", "-f", "/usr/local/etc/haproxy/haproxy.cfg"]
END
    build "$haproxy"
fi

if wanted "$prometheus"; then
    mkdir -p "$work/context/packages"
    cp "$cache"/packages/prometheus/*.deb "$cache"/packages/haproxy/busybox_*.deb "$work/context/packages"
    cat > "$work/context/Dockerfile" << END
FROM $debian
COPY packages /packages
RUN $unpack; ln -s busybox /usr/bin/wget; mkdir /prometheus; chown nobody /prometheus
USER nobody
VOLUME /prometheus
ENTRYPOINT ["/bin/prometheus"]
END
    build "$prometheus"
fi
docker image ls --filter label=cameo.stand-in --format '{{.Repository}}:{{.Tag}} {{.Size}}'
