/* The far side of the benchmark, always on the kernel's stack: sinks, sources, echoes, and a client for the rows in which
 * our side is the server. One mode per run; it serves until it is ended, or its life is over. */
#include "common.h"

/* Large enough that a slow turn of the peer's does not decide how many datagrams arrive. */
#define UDP_BUFFER_BYTES (4 << 20)
#define UDP_BATCH 32
/* One end mark may be lost in a full queue. */
#define UDP_END_MARKS 5
#define HTTP_BODY_BYTES 100000000ULL
/* How long a server on our side may take until it listens. */
#define SERVER_PATIENCE_SECONDS 10

static char bulk[2 * BULK_BYTES];

static void sink(const struct options *options)
{
    int listener = bound(options, SOCK_STREAM, 0);
    for (;;) {
        int fd = accepted(listener);
        uint64_t total = 0;
        ssize_t got;
        while ((got = recv(fd, bulk, sizeof bulk, 0)) > 0)
            total += (uint64_t)got;
        if (got < 0)
            die("recv");
        send_all(fd, &total, sizeof total);
        close(fd);
    }
}

static void source(const struct options *options)
{
    int listener = bound(options, SOCK_STREAM, 0);
    for (;;) {
        int fd = accepted(listener);
        while (send(fd, bulk, BULK_BYTES, 0) > 0)
            continue;
        close(fd);
    }
}

static void echo(const struct options *options)
{
    int listener = bound(options, SOCK_STREAM, 0);
    for (;;) {
        int fd = accepted(listener);
        no_delay(fd);
        while (receive_all(fd, bulk, options->size)) {
            /* -w: a server that thinks for so long, on its processor. */
            for (uint64_t end = now() + options->pause; options->pause > 0 && now() < end;)
                continue;
            send_all(fd, bulk, options->size);
        }
        close(fd);
    }
}

/* Any number of connections at a time. */
static void echo_many(const struct options *options)
{
    int listener = bound(options, SOCK_STREAM, 0), set = epoll_create1(EPOLL_CLOEXEC);
    raise_file_limit(options->count + 64);
    struct epoll_event event = {.events = EPOLLIN, .data.fd = listener}, events[256];
    if (set < 0 || epoll_ctl(set, EPOLL_CTL_ADD, listener, &event) != 0)
        die("epoll");
    for (;;) {
        int ready = epoll_wait(set, events, 256, -1);
        for (int i = 0; i < ready; i++) {
            int fd = events[i].data.fd;
            if (fd == listener) {
                fd = accepted(listener);
                no_delay(fd);
                event.data.fd = fd;
                if (epoll_ctl(set, EPOLL_CTL_ADD, fd, &event) != 0)
                    die("epoll_ctl");
                continue;
            }
            ssize_t got = recv(fd, bulk, sizeof bulk, 0);
            if (got > 0)
                send_all(fd, bulk, (size_t)got);
            else
                close(fd);
        }
    }
}

/* One request a connection, whatever it asks for. */
static void http(const struct options *options)
{
    int listener = bound(options, SOCK_STREAM, 0);
    for (;;) {
        int fd = accepted(listener);
        char request[4096];
        size_t length = 0;
        do {
            ssize_t got = recv(fd, request + length, sizeof request - 1 - length, 0);
            if (got <= 0)
                die("no whole request in %zu bytes", length);
            length += (size_t)got;
            request[length] = '\0';
        } while (strstr(request, "\r\n\r\n") == NULL);
        char head[200];
        int head_length = snprintf(head, sizeof head,
                                   "HTTP/1.1 200 OK\r\nContent-Length: %llu\r\nConnection: close\r\n\r\n",
                                   HTTP_BODY_BYTES);
        send_all(fd, head, (size_t)head_length);
        for (uint64_t left = HTTP_BODY_BYTES; left > 0;) {
            size_t piece = left < BULK_BYTES ? (size_t)left : BULK_BYTES;
            send_all(fd, bulk, piece);
            left -= piece;
        }
        close(fd);
    }
}

/* What one end of an idle kernel connection costs in slab: half of what pairs over loopback cost. They stay open, so
 * that what they took is not what the measured connections take next. */
static double slab_of_one_end(size_t count)
{
    struct options loopback = {.address.s_addr = htonl(INADDR_LOOPBACK), .port = 1};
    int listener = bound(&loopback, SOCK_STREAM, 0);
    double before = slab_bytes();
    for (size_t i = 0; i < count; i++) {
        connected(&loopback, SOCK_STREAM, 0);
        accepted(listener);
    }
    return (slab_bytes() - before) / (double)count / 2;
}

/* Accepts, tells what an end costs, and keeps all. */
static void hold(const struct options *options)
{
    raise_file_limit(3 * options->count + 64);
    double cost = slab_of_one_end(options->count);
    int listener = bound(options, SOCK_STREAM, 0);
    for (;;) {
        int fd = accepted(listener);
        send_all(fd, &cost, sizeof cost);
    }
}

/* The server opens all its ports before it accepts at the first one: when that one answers, all are there. */
static void wait_for_server(const struct options *options)
{
    struct sockaddr_in to = endpoint(options, 0);
    uint64_t end = now() + SERVER_PATIENCE_SECONDS * NANOSECONDS;
    for (;;) {
        int fd = open_socket(options, SOCK_STREAM);
        if (connect(fd, (struct sockaddr *)&to, sizeof to) == 0) {
            char word = 'x';
            send_all(fd, &word, 1);
            if (!receive_all(fd, &word, 1))
                die("the server closed without an answer");
            close(fd);
            return;
        }
        if (now() > end)
            die("the server does not listen");
        close(fd);
        usleep(10000);
    }
}

/* Until a server on our side takes connections, whatever it speaks. */
static void await_server(const struct options *options)
{
    struct sockaddr_in to = endpoint(options, 0);
    uint64_t end = now() + SERVER_PATIENCE_SECONDS * NANOSECONDS;
    for (;;) {
        int fd = open_socket(options, SOCK_STREAM);
        if (connect(fd, (struct sockaddr *)&to, sizeof to) == 0)
            return;
        if (now() > end)
            die("the server does not listen");
        close(fd);
        usleep(10000);
    }
}

/* The client of our side's server, which 'q' ends. The first round over its ports is not measured. */
static void client(const struct options *options)
{
    wait_for_server(options);
    for (size_t turn = 1; turn < CONNECT_PORTS; turn++)
        connect_once(options, turn, 'x');
    connect_once(options, connect_many(options), 'q');
}

/* --- UDP ----------------------------------------------------------------------------------------------------------- */

static int udp_socket(const struct options *options)
{
    int fd = bound(options, SOCK_DGRAM, 0), bytes = UDP_BUFFER_BYTES;
    /* FORCE needs a right that a user namespace does not give; the smaller buffer does as well there. */
    if (setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &bytes, sizeof bytes) != 0)
        setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &bytes, sizeof bytes);
    return fd;
}

static void udp_echo(const struct options *options)
{
    int fd = udp_socket(options);
    struct sockaddr_in from;
    for (;;) {
        socklen_t length = sizeof from;
        ssize_t got = recvfrom(fd, bulk, sizeof bulk, 0, (struct sockaddr *)&from, &length);
        if (got >= 0)
            sendto(fd, bulk, (size_t)got, 0, (struct sockaddr *)&from, length);
    }
}

struct batch {
    struct mmsghdr messages[UDP_BATCH];
    struct iovec pieces[UDP_BATCH];
    struct sockaddr_in addresses[UDP_BATCH];
    char data[UDP_BATCH][DATAGRAM_BYTES];
};

static void batch_prepare(struct batch *batch)
{
    for (size_t i = 0; i < UDP_BATCH; i++) {
        batch->pieces[i] = (struct iovec){.iov_base = batch->data[i], .iov_len = DATAGRAM_BYTES};
        batch->messages[i].msg_hdr = (struct msghdr){
            .msg_iov = &batch->pieces[i],
            .msg_iovlen = 1,
            .msg_name = &batch->addresses[i],
            .msg_namelen = sizeof batch->addresses[i],
        };
    }
}

/* Counts data; each end mark is answered with the count. */
static void udp_sink(const struct options *options)
{
    static struct batch batch;
    int fd = udp_socket(options);
    uint64_t total = 0;
    for (;;) {
        batch_prepare(&batch);
        int got = recvmmsg(fd, batch.messages, UDP_BATCH, MSG_WAITFORONE, NULL);
        for (int i = 0; i < got; i++) {
            if (batch.data[i][0] == DATAGRAM_DATA)
                total++;
            else
                sendto(fd, &total, sizeof total, 0, (struct sockaddr *)&batch.addresses[i],
                       sizeof batch.addresses[i]);
        }
    }
}

/* Sends all it can to whoever asks, for the time given. */
static void udp_source(const struct options *options)
{
    static struct batch batch;
    int fd = udp_socket(options);
    struct sockaddr_in to;
    socklen_t length = sizeof to;
    if (recvfrom(fd, bulk, sizeof bulk, 0, (struct sockaddr *)&to, &length) < 0)
        die("recvfrom");
    batch_prepare(&batch);
    for (size_t i = 0; i < UDP_BATCH; i++) {
        batch.addresses[i] = to;
        memset(batch.data[i], DATAGRAM_DATA, DATAGRAM_BYTES);
    }
    uint64_t end = now() + (uint64_t)(options->seconds * NANOSECONDS);
    while (now() < end)
        sendmmsg(fd, batch.messages, UDP_BATCH, 0);
    memset(bulk, DATAGRAM_END, DATAGRAM_BYTES);
    for (int i = 0; i < UDP_END_MARKS; i++) {
        usleep(20000);
        sendto(fd, bulk, DATAGRAM_BYTES, 0, (struct sockaddr *)&to, length);
    }
}

/* ------------------------------------------------------------------------------------------------------------------- */

int main(int argc, char **argv)
{
    static const struct {
        const char *mode;
        void (*run)(const struct options *);
    } modes[] = {
        {"sink", sink},         {"source", source},         {"echo", echo},
        {"http", http},         {"hold", hold},             {"client", client},
        {"accept", accept_many}, {"udp-echo", udp_echo},    {"udp-sink", udp_sink},
        {"udp-source", udp_source}, {"echo-many", echo_many}, {"await", await_server},
    };
    struct options options;
    parse(argc, argv, &options);
    memset(bulk, 'p', sizeof bulk);
    for (size_t i = 0; i < sizeof modes / sizeof modes[0]; i++) {
        if (strcmp(modes[i].mode, options.mode) == 0) {
            modes[i].run(&options);
            return fflush(stdout) == 0 ? 0 : 1;
        }
    }
    fprintf(stderr, "no mode %s\n", options.mode);
    return 2;
}
