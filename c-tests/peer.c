/* The far end of the C tests: runs on the kernel's bare stack in the peer's namespace, one thread per connection, for a
 * bounded time: `peer SECONDS`. Prints "ready" when every service listens. Ports: services.h.
 *
 * The command port is a puppet: a test sends one line, the peer does it and answers "OK [number...]" or "ERR errno".
 * So a test decides step by step what its far end does, and needs no sleep to know that it was done.
 *
 *   CONNECT ip port       opens a connection, makes it the current one; OK slot port
 *   FASTOPEN ip port n    opens a connection with n bytes of the pattern in MSG_FASTOPEN's sendto; OK slot port
 *   MANY ip port k        opens k connections; OK k
 *   LISTEN [rcvbuf]       listens on a free port; OK port
 *   KEY [key]             signs (TCP_MD5SIG) what is opened from now on with CONNECT and LISTEN; none: no more
 *   ACCEPT                takes a connection from that listener, makes it current; OK slot port
 *   UNLISTEN              closes the listener
 *   USE slot              makes another connection current
 *   SEND n                sends n bytes of the pattern; OK n
 *   RECV n                reads exactly n bytes and compares them with the pattern; OK n, or ERR EPIPE at an early end,
 *                         ERR EILSEQ if they differ
 *   RECVALL               reads to the end of the stream; OK count checksum
 *   DRAIN                 reads what is there and can be had within 200 ms; OK count
 *   WAITEND               waits until the far end's FIN or RST was seen; OK 0 for a FIN, OK errno for a reset
 *   ECHO                  sends back everything until the far end's FIN, then closes; OK count
 *   FIN | SHUTRD | CLOSE | RESET    half-close, shutdown of the read half, close, close with a reset
 *   STATE                 OK TCP_INFO state
 *   URGENT byte           sends one urgent byte; OK 1
 *   TAKEURGENT            waits for an urgent byte and takes it; OK byte
 *   UDPSEND ip port n     one datagram of n pattern bytes; OK source port
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "services.h"

#define BLOCK 65536
#define SLOTS 512
/* A test's own deadline is 17 s; nothing that it waits for may take longer here. */
#define PATIENCE_MS 8000

static void die(const char *what)
{
    perror(what);
    exit(1);
}

static struct sockaddr_in any_address(int port)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    return address;
}

static int listen_on(int port, int receive_buffer)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    int one = 1;
    struct sockaddr_in address = any_address(port);
    int early = 16;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    /* Without effect unless the namespace's tcp_fastopen has the server's bit. */
    setsockopt(fd, IPPROTO_TCP, TCP_FASTOPEN, &early, sizeof early);
    if (receive_buffer > 0)
        setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &receive_buffer, sizeof receive_buffer);
    if (bind(fd, (struct sockaddr *)&address, sizeof address) != 0 || listen(fd, 512) != 0) {
        int error = errno;
        close(fd);
        errno = error;
        return -1;
    }
    return fd;
}

static bool send_all(int fd, const void *data, size_t length)
{
    size_t done = 0;
    while (done < length) {
        ssize_t sent = send(fd, (const char *)data + done, length - done, MSG_NOSIGNAL);
        if (sent < 0)
            return false;
        done += (size_t)sent;
    }
    return true;
}

static bool send_pattern(int fd, uint64_t *offset, uint64_t length)
{
    unsigned char block[BLOCK];
    while (length > 0) {
        size_t part = length < sizeof block ? (size_t)length : sizeof block;
        pattern_fill(block, part, *offset);
        if (!send_all(fd, block, part))
            return false;
        *offset += part;
        length -= part;
    }
    return true;
}

static void reset(int fd)
{
    struct linger linger = {1, 0};
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof linger);
    close(fd);
}

/* One line without its newline; false at the end of the stream. */
static bool read_line(int fd, char *line, size_t size)
{
    size_t length = 0;
    while (length < size - 1) {
        if (read(fd, line + length, 1) != 1)
            return false;
        if (line[length] == '\n')
            break;
        length++;
    }
    line[length] = 0;
    return true;
}

static long echo(int fd)
{
    unsigned char block[BLOCK];
    long total = 0;
    ssize_t got;
    while ((got = read(fd, block, sizeof block)) > 0) {
        if (!send_all(fd, block, (size_t)got))
            return -1;
        total += got;
    }
    return got < 0 ? -1 : total;
}

static long count_all(int fd, uint32_t *sum)
{
    unsigned char block[BLOCK];
    long total = 0;
    ssize_t got;
    *sum = CHECKSUM_START;
    while ((got = read(fd, block, sizeof block)) > 0) {
        *sum = checksum_add(*sum, block, (size_t)got);
        total += got;
    }
    return got < 0 ? -1 : total;
}

/* ---- services with one fixed behaviour ---- */

static void serve_echo(int fd)
{
    echo(fd);
    close(fd);
}

static void serve_discard(int fd)
{
    uint32_t sum;
    long total = count_all(fd, &sum);
    if (total >= 0)
        dprintf(fd, "%ld %u\n", total, sum);
    close(fd);
}

static void serve_source(int fd)
{
    char line[32], rest[256];
    uint64_t offset = 0;
    if (read_line(fd, line, sizeof line) && send_pattern(fd, &offset, strtoull(line, NULL, 10)))
        shutdown(fd, SHUT_WR);
    while (read(fd, rest, sizeof rest) > 0) {
    }
    close(fd);
}

static void serve_silent(int fd)
{
    struct pollfd entry = {fd, POLLRDHUP, 0};
    poll(&entry, 1, -1);
    close(fd);
}

static void serve_byte_reset(int fd)
{
    char byte = 'x';
    if (write(fd, &byte, 1) == 1 && read(fd, &byte, 1) == 1)
        reset(fd);
    else
        close(fd);
}

static void serve_fin(int fd)
{
    close(fd);
}

/* ---- the puppet ---- */

struct puppet {
    int listener;
    int current;
    int used;
    /* Key of TCP_MD5SIG for what is opened from now on. */
    char key[81];
    int slot[SLOTS];
    uint64_t sent[SLOTS];
    uint64_t received[SLOTS];
};

struct answer {
    int error;
    long number;
    unsigned long detail;
};

static struct answer failed(int error)
{
    return (struct answer){.error = error};
}

static struct answer done(long number, unsigned long detail)
{
    return (struct answer){.number = number, .detail = detail};
}

static struct answer keep(struct puppet *puppet, int fd)
{
    struct sockaddr_in address = {0};
    socklen_t length = sizeof address;
    if (puppet->used == SLOTS) {
        close(fd);
        return failed(EMFILE);
    }
    getsockname(fd, (struct sockaddr *)&address, &length);
    puppet->current = puppet->used++;
    puppet->slot[puppet->current] = fd;
    return done(puppet->current, ntohs(address.sin_port));
}

/* Signs towards everybody. */
static bool set_key(int fd, const char *key)
{
    struct tcp_md5sig signature = {.tcpm_flags = TCP_MD5SIG_FLAG_PREFIX, .tcpm_keylen = (unsigned short)strlen(key)};
    if (key[0] == 0)
        return true;
    signature.tcpm_addr.ss_family = AF_INET;
    memcpy(signature.tcpm_key, key, strlen(key));
    return setsockopt(fd, IPPROTO_TCP, TCP_MD5SIG_EXT, &signature, sizeof signature) == 0;
}

static struct answer open_connection(struct puppet *puppet, const char *ip, int port)
{
    struct sockaddr_in address = any_address(port);
    /* connect and a blocked send give up after this. */
    struct timeval patience = {PATIENCE_MS / 1000, 0};
    if (inet_pton(AF_INET, ip, &address.sin_addr) != 1)
        return failed(EINVAL);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
    if (!set_key(fd, puppet->key) || connect(fd, (struct sockaddr *)&address, sizeof address) != 0) {
        int error = errno;
        close(fd);
        return failed(error);
    }
    return keep(puppet, fd);
}

static struct answer open_fast(struct puppet *puppet, const char *ip, int port, size_t size)
{
    struct sockaddr_in address = any_address(port);
    struct timeval patience = {PATIENCE_MS / 1000, 0};
    unsigned char data[1024];
    if (inet_pton(AF_INET, ip, &address.sin_addr) != 1 || size > sizeof data)
        return failed(EINVAL);
    pattern_fill(data, size, 0);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
    if (sendto(fd, data, size, MSG_FASTOPEN, (struct sockaddr *)&address, sizeof address) != (ssize_t)size) {
        int error = errno;
        close(fd);
        return failed(error);
    }
    return keep(puppet, fd);
}

static struct answer accept_connection(struct puppet *puppet)
{
    struct pollfd entry = {puppet->listener, POLLIN, 0};
    if (poll(&entry, 1, PATIENCE_MS) != 1)
        return failed(ETIMEDOUT);
    int fd = accept4(puppet->listener, NULL, NULL, SOCK_CLOEXEC);
    return fd < 0 ? failed(errno) : keep(puppet, fd);
}

static struct answer receive_pattern(int fd, uint64_t *offset, uint64_t length)
{
    unsigned char block[BLOCK];
    uint64_t left = length;
    while (left > 0) {
        size_t part = left < sizeof block ? (size_t)left : sizeof block;
        ssize_t got = read(fd, block, part);
        if (got < 0)
            return failed(errno);
        if (got == 0)
            return failed(EPIPE);
        if (pattern_match(block, (size_t)got, *offset) != (size_t)got)
            return failed(EILSEQ);
        *offset += (uint64_t)got;
        left -= (uint64_t)got;
    }
    return done((long)length, 0);
}

static struct answer drain(int fd, uint64_t *offset)
{
    unsigned char block[BLOCK];
    struct pollfd entry = {fd, POLLIN, 0};
    long total = 0;
    while (poll(&entry, 1, 200) == 1) {
        ssize_t got = recv(fd, block, sizeof block, MSG_DONTWAIT);
        if (got <= 0)
            break;
        total += got;
    }
    *offset += (uint64_t)total;
    return done(total, 0);
}

static struct answer wait_for_end(int fd)
{
    struct pollfd entry = {fd, POLLRDHUP, 0};
    int error = 0;
    socklen_t length = sizeof error;
    if (poll(&entry, 1, PATIENCE_MS) != 1)
        return failed(ETIMEDOUT);
    getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &length);
    return done(error, 0);
}

static struct answer send_datagram(const char *ip, int port, size_t size)
{
    static const size_t largest = 65507;
    struct sockaddr_in address = any_address(port), source = {0};
    socklen_t length = sizeof source;
    if (size > largest || inet_pton(AF_INET, ip, &address.sin_addr) != 1)
        return failed(EINVAL);
    unsigned char *data = malloc(size + 1);
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    struct answer answer;
    pattern_fill(data, size, 0);
    if (sendto(fd, data, size, 0, (struct sockaddr *)&address, sizeof address) != (ssize_t)size) {
        answer = failed(errno);
    } else {
        getsockname(fd, (struct sockaddr *)&source, &length);
        answer = done(ntohs(source.sin_port), 0);
    }
    close(fd);
    free(data);
    return answer;
}

/* Commands that act on the current connection. */
static struct answer act(struct puppet *puppet, const char *verb, long number)
{
    if (puppet->current < 0)
        return failed(EBADF);
    int *fd = &puppet->slot[puppet->current];
    uint64_t *sent = &puppet->sent[puppet->current], *received = &puppet->received[puppet->current];
    if (*fd < 0)
        return failed(EBADF);
    if (strcmp(verb, "SEND") == 0)
        return send_pattern(*fd, sent, (uint64_t)number) ? done(number, 0) : failed(errno);
    if (strcmp(verb, "RECV") == 0)
        return receive_pattern(*fd, received, (uint64_t)number);
    if (strcmp(verb, "DRAIN") == 0)
        return drain(*fd, received);
    if (strcmp(verb, "WAITEND") == 0)
        return wait_for_end(*fd);
    if (strcmp(verb, "RECVALL") == 0) {
        uint32_t sum;
        long total = count_all(*fd, &sum);
        return total < 0 ? failed(errno) : done(total, sum);
    }
    if (strcmp(verb, "FIN") == 0)
        return shutdown(*fd, SHUT_WR) == 0 ? done(0, 0) : failed(errno);
    if (strcmp(verb, "SHUTRD") == 0)
        return shutdown(*fd, SHUT_RD) == 0 ? done(0, 0) : failed(errno);
    if (strcmp(verb, "STATE") == 0) {
        struct tcp_info info = {0};
        socklen_t length = sizeof info;
        return getsockopt(*fd, IPPROTO_TCP, TCP_INFO, &info, &length) == 0 ? done(info.tcpi_state, 0) : failed(errno);
    }
    if (strcmp(verb, "URGENT") == 0) {
        char byte = (char)number;
        return send(*fd, &byte, 1, MSG_OOB) == 1 ? done(1, 0) : failed(errno);
    }
    if (strcmp(verb, "TAKEURGENT") == 0) {
        struct pollfd entry = {*fd, POLLPRI, 0};
        unsigned char byte = 0;
        if (poll(&entry, 1, PATIENCE_MS) != 1)
            return failed(ETIMEDOUT);
        return recv(*fd, &byte, 1, MSG_OOB) == 1 ? done(byte, 0) : failed(errno);
    }
    long total = 0;
    if (strcmp(verb, "ECHO") == 0) {
        total = echo(*fd);
        close(*fd);
    } else if (strcmp(verb, "CLOSE") == 0) {
        close(*fd);
    } else if (strcmp(verb, "RESET") == 0) {
        reset(*fd);
    } else {
        return failed(ENOSYS);
    }
    *fd = -1;
    return total < 0 ? failed(EPIPE) : done(total, 0);
}

static struct answer obey(struct puppet *puppet, const char *line)
{
    char verb[16] = "", ip[64] = "";
    int port = 0;
    long number = 0;
    sscanf(line, "%15s %ld", verb, &number);
    if (strcmp(verb, "CONNECT") == 0 && sscanf(line, "%*s %63s %d", ip, &port) == 2)
        return open_connection(puppet, ip, port);
    if (strcmp(verb, "FASTOPEN") == 0 && sscanf(line, "%*s %63s %d %ld", ip, &port, &number) == 3)
        return open_fast(puppet, ip, port, (size_t)number);
    if (strcmp(verb, "MANY") == 0 && sscanf(line, "%*s %63s %d %ld", ip, &port, &number) == 3) {
        for (long i = 0; i < number; i++) {
            struct answer answer = open_connection(puppet, ip, port);
            if (answer.error != 0)
                return answer;
        }
        return done(number, 0);
    }
    if (strcmp(verb, "UDPSEND") == 0 && sscanf(line, "%*s %63s %d %ld", ip, &port, &number) == 3)
        return number < 0 ? failed(EINVAL) : send_datagram(ip, port, (size_t)number);
    if (strcmp(verb, "LISTEN") == 0) {
        struct sockaddr_in address = {0};
        socklen_t length = sizeof address;
        if (puppet->listener >= 0)
            close(puppet->listener);
        puppet->listener = listen_on(0, (int)number);
        if (puppet->listener < 0 || !set_key(puppet->listener, puppet->key))
            return failed(errno);
        getsockname(puppet->listener, (struct sockaddr *)&address, &length);
        return done(ntohs(address.sin_port), 0);
    }
    if (strcmp(verb, "KEY") == 0) {
        puppet->key[0] = 0;
        sscanf(line, "%*s %80s", puppet->key);
        return done(0, 0);
    }
    if (strcmp(verb, "ACCEPT") == 0)
        return puppet->listener < 0 ? failed(EBADF) : accept_connection(puppet);
    if (strcmp(verb, "UNLISTEN") == 0) {
        close(puppet->listener);
        puppet->listener = -1;
        return done(0, 0);
    }
    if (strcmp(verb, "USE") == 0) {
        if (number < 0 || number >= puppet->used)
            return failed(EBADF);
        puppet->current = (int)number;
        return done(number, 0);
    }
    return act(puppet, verb, number);
}

static void serve_commands(int fd)
{
    struct puppet *puppet = calloc(1, sizeof *puppet);
    char line[256];
    if (puppet == NULL)
        die("calloc");
    puppet->listener = -1;
    puppet->current = -1;
    while (read_line(fd, line, sizeof line)) {
        struct answer answer = obey(puppet, line);
        char text[64];
        int length = answer.error != 0 ? snprintf(text, sizeof text, "ERR %d\n", answer.error)
                                       : snprintf(text, sizeof text, "OK %ld %lu\n", answer.number, answer.detail);
        if (!send_all(fd, text, (size_t)length))
            break;
    }
    for (int i = 0; i < puppet->used; i++)
        if (puppet->slot[i] >= 0)
            close(puppet->slot[i]);
    if (puppet->listener >= 0)
        close(puppet->listener);
    free(puppet);
    close(fd);
}

/* ---- start ---- */

struct service {
    int port;
    void (*serve)(int);
    int listener;
};

struct connection {
    void (*serve)(int);
    int fd;
};

static void start_thread(void *(*body)(void *), void *argument)
{
    pthread_attr_t attributes;
    pthread_t thread;
    pthread_attr_init(&attributes);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    pthread_attr_setstacksize(&attributes, 512 * 1024);
    if (pthread_create(&thread, &attributes, body, argument) != 0)
        die("pthread_create");
    pthread_attr_destroy(&attributes);
}

static void *run_connection(void *argument)
{
    struct connection connection = *(struct connection *)argument;
    free(argument);
    connection.serve(connection.fd);
    return NULL;
}

static void *run_service(void *argument)
{
    const struct service *service = argument;
    for (;;) {
        int fd = accept4(service->listener, NULL, NULL, SOCK_CLOEXEC);
        if (fd < 0)
            continue;
        struct connection *connection = malloc(sizeof *connection);
        if (connection == NULL)
            die("malloc");
        *connection = (struct connection){service->serve, fd};
        start_thread(run_connection, connection);
    }
    return NULL;
}

struct datagram_service {
    int port;
    int fd;
    int answer_fd;
};

static void *run_datagrams(void *argument)
{
    const struct datagram_service *service = argument;
    static const int says_source = PORT_UDP_SOURCE;
    char *data = malloc(65536);
    if (data == NULL)
        die("malloc");
    for (;;) {
        struct sockaddr_in from;
        socklen_t length = sizeof from;
        ssize_t size = recvfrom(service->fd, data, 65536, 0, (struct sockaddr *)&from, &length);
        if (size < 0)
            continue;
        if (service->port == says_source)
            size = snprintf(data, 64, "%s %d", inet_ntoa(from.sin_addr), ntohs(from.sin_port));
        sendto(service->answer_fd, data, (size_t)size, 0, (struct sockaddr *)&from, length);
    }
    return NULL;
}

int main(int argc, char **argv)
{
    static struct service services[] = {
        {PORT_ECHO, serve_echo, -1},         {PORT_DISCARD, serve_discard, -1},
        {PORT_SOURCE, serve_source, -1},     {PORT_RESET, reset, -1},
        {PORT_SILENT, serve_silent, -1},     {PORT_BYTE_RESET, serve_byte_reset, -1},
        {PORT_FIN, serve_fin, -1},           {PORT_COMMAND, serve_commands, -1},
    };
    static struct datagram_service datagrams[] = {
        {PORT_UDP_ECHO, -1, -1}, {PORT_UDP_SOURCE, -1, -1}, {PORT_UDP_STRANGER, -1, -1}};
    int seconds = argc == 2 ? atoi(argv[1]) : 0;
    if (seconds <= 0) {
        fprintf(stderr, "usage: peer SECONDS\n");
        return 2;
    }
    signal(SIGPIPE, SIG_IGN);
    alarm((unsigned)seconds);
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);

    for (size_t i = 0; i < sizeof services / sizeof services[0]; i++) {
        services[i].listener = listen_on(services[i].port, 0);
        if (services[i].listener < 0)
            die("listen");
        start_thread(run_service, &services[i]);
    }
    for (size_t i = 0; i < sizeof datagrams / sizeof datagrams[0]; i++) {
        struct sockaddr_in address = any_address(datagrams[i].port);
        datagrams[i].fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
        if (bind(datagrams[i].fd, (struct sockaddr *)&address, sizeof address) != 0)
            die("bind");
        datagrams[i].answer_fd =
            datagrams[i].port == PORT_UDP_STRANGER ? socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0) : datagrams[i].fd;
        start_thread(run_datagrams, &datagrams[i]);
    }
    puts("ready");
    fflush(stdout);
    for (;;)
        pause();
}
