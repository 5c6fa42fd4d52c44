#!/usr/bin/env bash
# Requests per second and 99th percentile of the router, nginx and HAProxy in front of one compiled backend: 64 kept
# connections, answers of 100 bytes and of 1 MiB, the proxy on one core, load and backend on the other, access logs on. Needs nginx, haproxy and wrk
# (Debian packages); everything stays on the loopback address and ends with the script.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${SECONDS_EACH:-5}
cargo build --quiet --release -p plimsoll
backend=$(cargo bench --quiet -p plimsoll --bench figures --no-run --message-format json 2>/dev/null |
  python3 -c 'import json,sys; print([m["executable"] for m in map(json.loads, sys.stdin) if m.get("executable") and m["target"]["name"] == "figures"][-1])')
server=; work=$(mktemp -d -p /var/lib); chmod 755 "$work"
pids=()
# The server first: it would start a router that ends again.
finish() { kill "$server" 2>/dev/null && wait "$server"; kill "${pids[@]}" 2>/dev/null || true; wait 2>/dev/null || true; plimsoll_network; rm -rf "$work"; }
plimsoll_network() {
  local bridge; bridge=plim$(tr -dc '0-9' <"$work/data/node/network.json")
  nft delete table ip "$bridge"; ip link del "$bridge"
}
trap finish EXIT
free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
cp "$backend" "$work/backend"
plimsoll() { target/release/plimsoll "$@" --data-dir "$work/data"; }
cat >"$work/app.yaml" <<YAML
apiVersion: plimsoll.dev/v1
kind: App
metadata: {name: bench}
spec:
  components:
    web:
      command: [$work/backend, backend]
      ports: {http: 80}
      health: {tcp: {port: http}, every: 60s}
      routes: [{host: bench.localhost, port: http}]
      update: {soak: 0s}
YAML
taskset -c 0 target/release/plimsoll server --http-port 0 --data-dir "$work/data" >"$work/server.log" 2>&1 & server=$!
until plimsoll get >/dev/null 2>&1; do sleep 0.1; done
plimsoll apply -f "$work/app.yaml" --wait >/dev/null 2>&1
instance=$(echo "$work"/data/node/instances/web-*)
upstream=$(python3 -c 'import json,sys; m = json.load(open(sys.argv[1])); print(m["address"] or "127.0.0.1", m["ports"]["http"], sep=":")' "$instance/mark.json")
program=$(python3 -c 'import json,sys; s = json.load(open(sys.argv[1])); print(s["program"]["pid"], s["shim"]["pid"])' "$instance/started.json")
read -r program shim <<<"$program"; pids+=("$shim" "$program")
router=$(pgrep -f "plimsoll router $work/data/router"); pids+=("$router")
for task in /proc/"$program"/task/*; do taskset -cp 1 "${task##*/}" >/dev/null; done
for task in /proc/"$router"/task/*; do taskset -cp 0 "${task##*/}" >/dev/null; done
ours=$(tr -dc '0-9' <<<"$(cut -d: -f2 "$work/data/router/listen.json")")
nginx_port=$(free_port); haproxy_port=$(free_port)
cat >"$work/nginx.conf" <<CONF
worker_processes 1; pid $work/nginx.pid; error_log $work/nginx.err; daemon off;
events { worker_connections 1024; }
http {
  access_log $work/nginx.log;
  upstream web { server $upstream; keepalive 64; }
  server { listen 127.0.0.1:$nginx_port; location / { proxy_pass http://web; proxy_http_version 1.1; proxy_set_header Connection ""; } }
}
CONF
cat >"$work/haproxy.cfg" <<CONF
global
  nbthread 1
  log stdout format raw local0
defaults
  mode http
  log global
  option httplog
  timeout connect 2s
  timeout client 60s
  timeout server 60s
listen web
  bind 127.0.0.1:$haproxy_port
  server one $upstream
CONF
taskset -c 0 nginx -c "$work/nginx.conf" >/dev/null 2>&1 & pids+=($!)
taskset -c 0 haproxy -f "$work/haproxy.cfg" >"$work/haproxy.log" 2>&1 & pids+=($!)
for port in "$ours" "$nginx_port" "$haproxy_port"; do
  until curl -sf -o /dev/null -H 'Host: bench.localhost' "http://127.0.0.1:$port/"; do :; done
done
measure() {
  taskset -c 1 wrk -t1 -c64 -d"${seconds}s" --latency -H 'Host: bench.localhost' "http://127.0.0.1:$2$3" |
    awk -v name="$1" '/99%/ {p99 = $2} /Requests\/sec/ {rate = $2} /Non-2xx/ {bad = $NF} END {print name, rate, p99, bad + 0}'
}
# Rounds take turns, so that a noisy neighbour meets all three; the medians count.
for path in / /large; do
  for _ in $(seq "${ROUNDS:-5}"); do
    measure router "$ours" "$path"
    measure nginx "$nginx_port" "$path"
    measure haproxy "$haproxy_port" "$path"
  done | python3 -c '
import statistics, sys
rates, lates, bad = {}, {}, 0
for line in sys.stdin:
    name, rate, late, wrong = line.split()
    unit = 1 if late.endswith("ms") else 0.001 if late.endswith("us") else 1000
    rates.setdefault(name, []).append(float(rate))
    lates.setdefault(name, []).append(float(late.rstrip("mus")) * unit)
    bad += int(wrong)
rate = {name: statistics.median(of) for name, of in rates.items()}
late = {name: statistics.median(of) for name, of in lates.items()}
rounds = len(rates["router"])
print(f"== {sys.argv[1]}, medians of {rounds} rounds, {bad} bad answers")
for name in rate:
    print(f"{name:<8} {rate[name]:10.0f} requests/s   p99 {late[name]:7.2f} ms")
better = max(rate["nginx"], rate["haproxy"]), min(late["nginx"], late["haproxy"])
print(f"""router   {rate["router"] / better[0]:10.2f} x              p99 {late["router"] / better[1]:7.2f} x   bar >= 0.8 x, <= 1.25 x""")
' "$path"
done
