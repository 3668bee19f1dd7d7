#!/usr/bin/env bash
# PostgreSQL and Kafka on loopback, for tests and benchmarks that need the real ones.
#
#   eval "$(bash xtask/servers.sh start FOLDER)"     starts both, prints export lines with their addresses
#   bash xtask/servers.sh stop FOLDER                ends what was started in that folder, and nothing else
#   bash xtask/servers.sh kafka-stop|kafka-kill|kafka-start FOLDER    the broker alone; it keeps its port and its data
#   bash xtask/servers.sh postgres-kill|postgres-start FOLDER         the same for the database
#
# PostgreSQL comes from the system (apt: postgresql), Kafka from its published jars (Maven), kept in
# OFFLOOP_KAFKA_LIBS (default: ~/.cache/offloop-kafka). Both keep their default durability.
set -euo pipefail
verb=${1:?start, stop, kafka-stop, kafka-kill, kafka-start, postgres-kill or postgres-start}
folder=${2:?the folder of the servers}
kafka_version=4.1.2
libs=${OFFLOOP_KAFKA_LIBS:-$HOME/.cache/offloop-kafka}/$kafka_version

free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }

# waits until the command succeeds or the process is gone; so many tries of 100 ms
until_up() {
  local pid=$1 tries=$2 log=$3; shift 3
  for _ in $(seq "$tries"); do
    if "$@" > /dev/null 2>&1; then return 0; fi
    kill -0 "$pid" 2> /dev/null || break
    sleep 0.1
  done
  tail -20 "$log" >&2
  return 1
}

# the server's user: PostgreSQL refuses root
as_owner() {
  if [ "$(id -u)" = 0 ]; then setpriv --reuid=postgres --regid=postgres --clear-groups "$@"; else "$@"; fi
}

postgres_bin() {
  local found
  found=$(ls -d /usr/lib/postgresql/*/bin 2> /dev/null | sort -V | tail -1)
  [ -n "$found" ] || found=$(dirname "$(command -v postgres)")
  echo "$found"
}

# An authority of its own, the server's certificate, which is localhost's and no address's, and a client's.
make_certificates() {
  local at=$1 who
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 -subj "/CN=offloop tests" \
    -keyout "$at/ca.key" -out "$at/ca.pem"
  printf 'subjectAltName=DNS:localhost\n' > "$at/server.ext"
  printf 'extendedKeyUsage=clientAuth\n' > "$at/client.ext"
  for who in server client; do
    openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "/CN=localhost" \
      -keyout "$at/$who.key" -out "$at/$who.csr"
    openssl x509 -req -in "$at/$who.csr" -CA "$at/ca.pem" -CAkey "$at/ca.key" -CAcreateserial -days 30 \
      -extfile "$at/$who.ext" -out "$at/$who.pem"
  done
  chmod 600 "$at"/*.key
}

run_postgres() {
  local bin data=$folder/postgres port
  bin=$(postgres_bin)
  port=$(cat "$folder/postgres.port")
  # Its own session: an interrupt for the caller is none for it.
  as_owner setsid "$bin/postgres" -D "$data/db" -p "$port" -h 127.0.0.1 -k "$data" -c max_connections=200 \
    >> "$folder/postgres.log" 2>&1 &
  until_up $! 300 "$folder/postgres.log" "$bin/pg_isready" -q -h 127.0.0.1 -p "$port" -U offloop
  as_owner head -1 "$data/db/postmaster.pid" > "$folder/postgres.pid"
}

start_postgres() {
  local bin data=$folder/postgres port
  bin=$(postgres_bin)
  mkdir -p "$data"
  if [ "$(id -u)" = 0 ]; then chown postgres: "$data"; chmod a+x "$folder"; fi
  as_owner "$bin/initdb" -D "$data/db" -U offloop --auth=trust --no-instructions > "$folder/postgres.log" 2>&1
  as_owner mkdir "$data/tls"
  make_certificates "$data/tls" >> "$folder/postgres.log" 2>&1
  if [ "$(id -u)" = 0 ]; then chown postgres: "$data/tls"/*; chmod a+x "$data" "$data/tls"; fi
  as_owner tee -a "$data/db/postgresql.conf" > /dev/null << CONF
ssl = on
ssl_cert_file = '$data/tls/server.pem'
ssl_key_file = '$data/tls/server.key'
CONF
  # One user has to prove a password, within TLS alone; his comes first.
  { echo "hostssl all bound 127.0.0.1/32 scram-sha-256"; echo "host all bound 127.0.0.1/32 reject"
    as_owner cat "$data/db/pg_hba.conf"; } > "$folder/pg_hba.conf"
  as_owner tee "$data/db/pg_hba.conf" < "$folder/pg_hba.conf" > /dev/null
  port=$(free_port)
  echo "$port" > "$folder/postgres.port"
  run_postgres
  echo "export OFFLOOP_TEST_POSTGRES='postgres://offloop@127.0.0.1:$port/postgres?sslmode=disable'"
  echo "export OFFLOOP_TEST_POSTGRES_CA='$data/tls/ca.pem'"
}

fetch_kafka() {
  [ -e "$libs/complete" ] && return
  local pom
  pom=$(mktemp -d)
  cat > "$pom/pom.xml" << POM
<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>
  <groupId>offloop</groupId><artifactId>kafka</artifactId><version>1</version>
  <dependencies>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>$kafka_version</version></dependency>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka-tools</artifactId><version>$kafka_version</version></dependency>
  </dependencies>
</project>
POM
  mkdir -p "$libs"
  (cd "$pom" && mvn -q -B dependency:copy-dependencies "-DoutputDirectory=$libs" -DincludeScope=runtime) >&2
  rm -r "$pom"
  touch "$libs/complete"
}

java_kafka() { java -Xmx512m -XX:+UseSerialGC -cp "$libs/*" "$@"; }

run_kafka() {
  local port
  port=$(cat "$folder/kafka.port")
  setsid java -Xmx512m -XX:+UseSerialGC -cp "$libs/*" kafka.Kafka "$folder/kafka.properties" \
    >> "$folder/kafka.log" 2>&1 &
  echo $! > "$folder/kafka.pid"
  until_up $! 600 "$folder/kafka.log" java_kafka org.apache.kafka.tools.TopicCommand \
    --bootstrap-server "127.0.0.1:$port" --list
}

start_kafka() {
  local port control login tls=$folder/kafka-tls certified
  fetch_kafka
  mkdir -p "$tls"
  make_certificates "$tls" > "$folder/kafka.log" 2>&1
  cat "$tls/server.key" "$tls/server.pem" > "$tls/keystore.pem"
  port=$(free_port)
  control=$(free_port)
  login=$(free_port)
  certified=$(free_port)
  echo "$port" > "$folder/kafka.port"
  cat > "$folder/kafka.properties" << PROPERTIES
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:$control
listeners=PLAINTEXT://127.0.0.1:$port,LOGIN://127.0.0.1:$login,CERTIFIED://127.0.0.1:$certified,CONTROLLER://127.0.0.1:$control
advertised.listeners=PLAINTEXT://127.0.0.1:$port,LOGIN://localhost:$login,CERTIFIED://localhost:$certified
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,LOGIN:SASL_SSL,CERTIFIED:SSL
controller.listener.names=CONTROLLER
ssl.keystore.type=PEM
ssl.keystore.location=$tls/keystore.pem
ssl.truststore.type=PEM
ssl.truststore.location=$tls/ca.pem
listener.name.certified.ssl.client.auth=required
listener.name.login.sasl.enabled.mechanisms=SCRAM-SHA-512,SCRAM-SHA-256,PLAIN
listener.name.login.scram-sha-512.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;
listener.name.login.scram-sha-256.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;
listener.name.login.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required user_loader="loads and no more";
log.dirs=$folder/kafka-data
num.partitions=4
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
group.initial.rebalance.delay.ms=0
PROPERTIES
  java_kafka kafka.tools.StorageTool format --cluster-id "$(java_kafka kafka.tools.StorageTool random-uuid | tail -1)" \
    --config "$folder/kafka.properties" --add-scram 'SCRAM-SHA-512=[name=loader,password="loads and no more"]' \
    --add-scram 'SCRAM-SHA-256=[name=loader,password="loads and no more"]' >> "$folder/kafka.log" 2>&1 || { tail -20 "$folder/kafka.log" >&2; return 1; }
  run_kafka
  echo "export OFFLOOP_TEST_KAFKA=127.0.0.1:$port"
  echo "export OFFLOOP_TEST_KAFKA_LOGIN=localhost:$login"
  echo "export OFFLOOP_TEST_KAFKA_CERTIFIED=localhost:$certified"
  echo "export OFFLOOP_TEST_KAFKA_TLS='$tls'"
  echo "export OFFLOOP_TEST_KAFKA_LIBS='$libs'"
}

end_pid() {
  [ -e "$1" ] || return 0
  local pid
  pid=$(cat "$1")
  kill "-${2:-TERM}" "$pid" 2> /dev/null || true
  for _ in $(seq 200); do
    kill -0 "$pid" 2> /dev/null || break
    sleep 0.1
  done
  rm -f "$1"
}

case $verb in
  start)
    mkdir -p "$folder"
    folder=$(cd "$folder" && pwd)
    start_postgres
    start_kafka
    echo "export OFFLOOP_TEST_SERVERS='$folder'"
    ;;
  stop)
    end_pid "$folder/kafka.pid"
    end_pid "$folder/postgres.pid" INT
    ;;
  kafka-stop) end_pid "$folder/kafka.pid" ;;
  kafka-kill) end_pid "$folder/kafka.pid" KILL ;;
  kafka-start) run_kafka ;;
  postgres-kill) end_pid "$folder/postgres.pid" QUIT ;;
  postgres-start) run_postgres ;;
  *) echo "start, stop, kafka-stop, kafka-kill, kafka-start, postgres-kill or postgres-start, not $verb" >&2; exit 2 ;;
esac
