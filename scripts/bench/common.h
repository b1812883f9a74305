/* What the benchmark's programs share: options, clocks, CPU pinning, sockets, figures on stdout. Everything is static
 * inline, so each program stays one file. A program that meets an error says so on stderr and ends with status 1, and
 * ends by SIGALRM when its life is over, so nothing of it can stay behind. */
#ifndef BENCH_COMMON_H
#define BENCH_COMMON_H

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define NANOSECONDS 1000000000ULL
/* One call's worth of a bulk transfer: two of the largest IPv4 packets, what iperf3 uses as well. */
#define BULK_BYTES (128 * 1024)
/* TIME_WAIT keeps a port pair for a minute, and 28,232 ephemeral ports last for about a second of connecting. Sixteen
 * ports of the server's, taken in turn by both ends, keep that limit out of the measurement. */
#define CONNECT_PORTS 16
#define DATAGRAM_BYTES 64
/* First byte of a datagram, in the UDP rows. */
#define DATAGRAM_DATA 'D'
#define DATAGRAM_END 'E'

struct options {
    const char *mode;
    struct in_addr address;
    uint16_t port;
    int cpu;
    unsigned life_seconds;
    double seconds;
    size_t size;
    size_t count;
    uint64_t pause;
    const char *control;
};

__attribute__((noreturn, format(printf, 1, 2))) static inline void die(const char *format, ...)
{
    int cause = errno;
    va_list arguments;
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fprintf(stderr, " (errno %d: %s)\n", cause, strerror(cause));
    exit(1);
}

static inline uint64_t now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * NANOSECONDS + (uint64_t)time.tv_nsec;
}

static inline void figure(const char *name, double value)
{
    printf("%s %.9g\n", name, value);
}

static inline void pin(int cpu)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    if (sched_setaffinity(0, sizeof set, &set) != 0)
        die("pin to CPU %d", cpu);
}

static inline double number(const char *text)
{
    char *end;
    double value = strtod(text, &end);
    if (end == text || *end != '\0' || value < 0) {
        fprintf(stderr, "not a number: %s\n", text);
        exit(2);
    }
    return value;
}

/* MODE, then options; stops at the first word that is none, and returns its index. */
static inline int parse(int argc, char **argv, struct options *options)
{
    *options = (struct options){.cpu = -1, .life_seconds = 60, .seconds = 1, .size = 1, .count = 1};
    if (argc < 2) {
        fprintf(stderr, "usage: %s MODE [-a address] [-p port] [-c cpu] [-t seconds] [-l life] [-z size] [-n count] [-w microseconds] [-C control]\n",
                argv[0]);
        exit(2);
    }
    options->mode = argv[1];
    int option;
    optind = 2;
    while ((option = getopt(argc, argv, "+a:p:c:t:l:z:n:w:C:")) != -1) {
        switch (option) {
        case 'a':
            if (inet_pton(AF_INET, optarg, &options->address) != 1)
                die("address %s", optarg);
            break;
        case 'p': options->port = (uint16_t)number(optarg); break;
        case 'c': options->cpu = (int)number(optarg); break;
        case 't': options->seconds = number(optarg); break;
        case 'l': options->life_seconds = (unsigned)number(optarg); break;
        case 'z': options->size = (size_t)number(optarg); break;
        case 'n': options->count = (size_t)number(optarg); break;
        case 'w': options->pause = (uint64_t)(number(optarg) * 1e3); break;
        case 'C': options->control = optarg; break;
        default: exit(2);
        }
    }
    if (options->size < 1 || options->size > BULK_BYTES || options->count < 1) {
        fprintf(stderr, "-z is 1 to %d, -n at least 1\n", BULK_BYTES);
        exit(2);
    }
    signal(SIGPIPE, SIG_IGN);
    alarm(options->life_seconds);
    if (options->cpu >= 0)
        pin(options->cpu);
    return optind;
}

static inline struct sockaddr_in endpoint(const struct options *options, unsigned port_offset)
{
    return (struct sockaddr_in){
        .sin_family = AF_INET,
        .sin_addr = options->address,
        .sin_port = htons((uint16_t)(options->port + port_offset)),
    };
}

/* -C: congestion control, which a network namespace may not always choose for all of its sockets. */
static inline int open_socket(const struct options *options, int type)
{
    int fd = socket(AF_INET, type | SOCK_CLOEXEC, 0);
    if (fd < 0)
        die("socket");
    if (options->control != NULL && type == SOCK_STREAM &&
        setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, options->control, (socklen_t)strlen(options->control)) != 0)
        die("TCP_CONGESTION %s", options->control);
    return fd;
}

static inline void no_delay(int fd)
{
    int on = 1;
    if (setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on) != 0)
        die("TCP_NODELAY");
}

static inline int connected(const struct options *options, int type, unsigned port_offset)
{
    int fd = open_socket(options, type);
    struct sockaddr_in to = endpoint(options, port_offset);
    if (connect(fd, (struct sockaddr *)&to, sizeof to) != 0)
        die("connect to port %d", ntohs(to.sin_port));
    return fd;
}

static inline int bound(const struct options *options, int type, unsigned port_offset)
{
    int fd = open_socket(options, type), on = 1;
    struct sockaddr_in at = endpoint(options, port_offset);
    if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) != 0)
        die("SO_REUSEADDR");
    if (bind(fd, (struct sockaddr *)&at, sizeof at) != 0)
        die("bind to port %d", ntohs(at.sin_port));
    if (type == SOCK_STREAM && listen(fd, 1024) != 0)
        die("listen");
    return fd;
}

static inline int accepted(int listener)
{
    int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    if (fd < 0)
        die("accept");
    return fd;
}

/* False at the end of the stream. */
static inline bool receive_all(int fd, void *buffer, size_t length)
{
    char *to = buffer;
    while (length > 0) {
        ssize_t got = recv(fd, to, length, 0);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            die("recv");
        if (got == 0)
            return false;
        to += got;
        length -= (size_t)got;
    }
    return true;
}

static inline void send_all(int fd, const void *buffer, size_t length)
{
    const char *from = buffer;
    while (length > 0) {
        ssize_t sent = send(fd, from, length, 0);
        if (sent < 0 && errno == EINTR)
            continue;
        if (sent < 0)
            die("send");
        from += sent;
        length -= (size_t)sent;
    }
}

/* One connection of the rows `connect` and `accept`, seen from the client: it closes first, so TIME_WAIT is its own. */
static inline void connect_once(const struct options *options, size_t turn, char word)
{
    int fd = connected(options, SOCK_STREAM, (unsigned)(turn % CONNECT_PORTS));
    char answer;
    send_all(fd, &word, 1);
    if (!receive_all(fd, &answer, 1))
        die("the server closed without an answer");
    close(fd);
}

/* As many connections as fit into the time, at most options->count; how many they were. */
static inline size_t connect_many(const struct options *options)
{
    uint64_t start = now(), end = start + (uint64_t)(options->seconds * NANOSECONDS), time;
    size_t turn = 0;
    do {
        connect_once(options, turn++, 'x');
        time = now();
    } while (time < end && turn < options->count);
    figure("per_second", (double)turn * NANOSECONDS / (double)(time - start));
    figure("connections", (double)turn);
    return turn;
}

/* The other end of connect_many: accepts at each port in turn, until a client sends 'q'. */
static inline void accept_many(const struct options *options)
{
    int listeners[CONNECT_PORTS];
    for (unsigned i = 0; i < CONNECT_PORTS; i++)
        listeners[i] = bound(options, SOCK_STREAM, i);
    for (size_t turn = 0;; turn++) {
        int fd = accepted(listeners[turn % CONNECT_PORTS]);
        char word, nothing;
        if (!receive_all(fd, &word, 1))
            die("the client closed without a word");
        send_all(fd, &word, 1);
        if (receive_all(fd, &nothing, 1))
            die("the client says more than it should");
        close(fd);
        if (word == 'q')
            return;
    }
}

/* Objects in use times their size, over all of the machine's slab caches; 0 where the kernel does not tell (root only). */
static inline double slab_objects_bytes(void)
{
    char line[512];
    double total = 0, active, size;
    FILE *file = fopen("/proc/slabinfo", "re");
    if (file == NULL)
        return 0;
    while (fgets(line, sizeof line, file) != NULL)
        if (sscanf(line, "%*s %lf %*s %lf", &active, &size) == 2)
            total += active * size;
    fclose(file);
    return total;
}

/* Kernel memory for small objects, of the whole machine, in bytes. By the objects where that can be had: new ones take
 * the free places of old slabs first, which the sum of all slabs does not show. */
static inline double slab_bytes(void)
{
    char line[256];
    double kibibytes = -1, objects = slab_objects_bytes();
    if (objects > 0)
        return objects;
    FILE *file = fopen("/proc/meminfo", "re");
    if (file == NULL)
        die("/proc/meminfo");
    while (fgets(line, sizeof line, file) != NULL)
        if (sscanf(line, "Slab: %lf", &kibibytes) == 1)
            break;
    fclose(file);
    if (kibibytes < 0)
        die("/proc/meminfo has no Slab");
    return kibibytes * 1024;
}

static inline void raise_file_limit(size_t wanted)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0)
        die("RLIMIT_NOFILE");
    if (limit.rlim_cur >= wanted)
        return;
    limit.rlim_cur = wanted;
    if (limit.rlim_max < wanted)
        limit.rlim_max = wanted;
    if (setrlimit(RLIMIT_NOFILE, &limit) != 0)
        die("RLIMIT_NOFILE %zu", wanted);
}

#endif
