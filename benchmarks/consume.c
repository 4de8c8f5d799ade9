/* The C client at its best: consumes COUNT messages of a queue and prints a line of JSON.
   cc -O2 consume.c -lrabbitmq; ./a.out HOST PORT USER PASSWORD QUEUE COUNT BATCH */
#include <amqp.h>
#include <amqp_tcp_socket.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static double now(clockid_t clock) {
  struct timespec t;
  clock_gettime(clock, &t);
  return t.tv_sec + t.tv_nsec / 1e9;
}

int main(int argc, char **argv) {
  if (argc != 8) return 2;
  long count = atol(argv[6]), batch = atol(argv[7]), seen = 0;
  double wall = 0, cpu = 0;
  amqp_connection_state_t connection = amqp_new_connection();
  if (amqp_socket_open(amqp_tcp_socket_new(connection), argv[1], atoi(argv[2]))) return 3;
  amqp_rpc_reply_t reply = amqp_login(connection, "/", 0, 131072, 0, AMQP_SASL_METHOD_PLAIN, argv[3], argv[4]);
  if (reply.reply_type != AMQP_RESPONSE_NORMAL) return 4;
  amqp_channel_open(connection, 1);
  amqp_basic_qos(connection, 1, 0, 4 * batch, 0);
  amqp_basic_consume(connection, 1, amqp_cstring_bytes(argv[5]), amqp_empty_bytes, 0, 0, 0, amqp_empty_table);
  while (seen < count) {
    amqp_envelope_t envelope;
    amqp_maybe_release_buffers(connection);
    if (amqp_consume_message(connection, &envelope, NULL, 0).reply_type != AMQP_RESPONSE_NORMAL) return 5;
    if (++seen % batch == 0) {
      amqp_basic_ack(connection, 1, envelope.delivery_tag, 1);
      if (seen == batch) wall = now(CLOCK_MONOTONIC), cpu = now(CLOCK_PROCESS_CPUTIME_ID);
    }
    amqp_destroy_envelope(&envelope);
  }
  wall = now(CLOCK_MONOTONIC) - wall, cpu = now(CLOCK_PROCESS_CPUTIME_ID) - cpu;
  printf("{\"records_per_second\": %f, \"cpu_us_per_record\": %f}\n", (seen - batch) / wall, cpu / (seen - batch) * 1e6);
  return 0;
}
