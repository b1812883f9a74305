/* The peer of the differential harness: kernel sockets whose behaviour is commanded, one message per command, one per
 * answer. It has one listener, one UDP socket, and the connection that it accepted or opened last. Leaves all judgement
 * to the driver. */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "differential.h"

/* What an idle link does at once gets this long; a command that cannot succeed costs as much. In a slow run, which
 * decides, it gets longer. */
enum { HASTY_MS = 12, PATIENT_MS = 100 };

static int patience = HASTY_MS;
static int listener, datagrams, current = -1;
static unsigned char next_byte;

static struct sockaddr_in address_of(const char *ip, int port)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((unsigned short)port)};
    inet_pton(AF_INET, ip, &address.sin_addr);
    return address;
}

static void reset(int fd)
{
    struct linger linger = {1, 0};
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof linger);
    close(fd);
}

static bool ready(int fd, int events, int milliseconds)
{
    struct pollfd entry = {fd, (short)events, 0};
    return poll(&entry, 1, milliseconds) == 1;
}

static void keep(int fd)
{
    if (current >= 0)
        reset(current);
    current = fd;
}

static const char *accept_one(void)
{
    if (!ready(listener, POLLIN, patience))
        return "nothing";
    int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd < 0)
        return strerrorname_np(errno);
    keep(fd);
    return "ok";
}

static const char *connect_to(const char *ip, int port)
{
    struct sockaddr_in address = address_of(ip, port);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), error = 0;
    socklen_t length = sizeof error;
    connect(fd, (struct sockaddr *)&address, sizeof address);
    if (!ready(fd, POLLOUT, patience)) {
        reset(fd);
        return "nothing";
    }
    getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &length);
    if (error != 0) {
        close(fd);
        return strerrorname_np(error);
    }
    keep(fd);
    return "ok";
}

static void fill(unsigned char *data, size_t length)
{
    for (size_t i = 0; i < length; i++)
        data[i] = next_byte++;
}

/* What has come in so far, taken until nothing comes for a moment: the number of bytes, their sum, and the end. */
static const char *receive_all(int expected)
{
    static char text[64];
    unsigned char data[65536];
    long total = 0, sum = 0;
    const char *end = "open";
    while (ready(current, POLLIN, total < expected ? patience : 0)) {
        ssize_t got = recv(current, data, sizeof data, MSG_DONTWAIT);
        if (got <= 0) {
            end = got == 0 ? "end" : strerrorname_np(errno);
            break;
        }
        for (ssize_t i = 0; i < got; i++)
            sum = (sum * 31 + data[i]) & 0xffffff;
        total += got;
    }
    snprintf(text, sizeof text, "%ld %lx %s", total, sum, end);
    return text;
}

static const char *receive_datagram(void)
{
    static char text[64];
    unsigned char data[65536];
    long sum = 0;
    if (!ready(datagrams, POLLIN, patience))
        return "nothing";
    ssize_t got = recv(datagrams, data, sizeof data, MSG_DONTWAIT);
    for (ssize_t i = 0; i < got; i++)
        sum = (sum * 31 + data[i]) & 0xffffff;
    snprintf(text, sizeof text, "%zd %lx", got, sum);
    return text;
}

/* Everything of the last sequence goes, without a TIME-WAIT. */
static const char *forget(void)
{
    char data[16];
    int fd;
    if (current >= 0)
        reset(current);
    current = -1;
    next_byte = 0;
    while ((fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC)) >= 0)
        reset(fd);
    while (recv(datagrams, data, sizeof data, MSG_DONTWAIT | MSG_TRUNC) >= 0) {
    }
    return "ok";
}

static const char *outcome(long value)
{
    return value < 0 ? strerrorname_np(errno) : "ok";
}

static const char *obey(const char *line)
{
    char verb[16] = "", ip[64] = "";
    unsigned char data[65536];
    int number = 0, size = 0;
    patience = line[0] == SLOW_MARK ? PATIENT_MS : HASTY_MS;
    line += line[0] == SLOW_MARK;
    sscanf(line, "%15s %d", verb, &number);
    if (strcmp(verb, "forget") == 0)
        return forget();
    if (strcmp(verb, "sync") == 0)
        return "ok";
    if (strcmp(verb, "accept") == 0)
        return accept_one();
    if (strcmp(verb, "connect") == 0 && sscanf(line, "%*s %63s %d", ip, &number) == 2)
        return connect_to(ip, number);
    if (strcmp(verb, "datagram") == 0 && sscanf(line, "%*s %63s %d %d", ip, &number, &size) == 3) {
        struct sockaddr_in to = address_of(ip, number);
        fill(data, (size_t)size);
        return outcome(sendto(datagrams, data, (size_t)size, 0, (struct sockaddr *)&to, sizeof to));
    }
    if (strcmp(verb, "taken") == 0)
        return receive_datagram();
    if (current < 0)
        return "no connection";
    if (strcmp(verb, "send") == 0) {
        fill(data, (size_t)number);
        return outcome(send(current, data, (size_t)number, MSG_NOSIGNAL));
    }
    if (strcmp(verb, "urgent") == 0) {
        fill(data, 1);
        return outcome(send(current, data, 1, MSG_NOSIGNAL | MSG_OOB));
    }
    if (strcmp(verb, "receive") == 0)
        return receive_all(number);
    if (strcmp(verb, "fin") == 0)
        return outcome(shutdown(current, SHUT_WR));
    if (strcmp(verb, "close") == 0)
        close(current);
    else
        reset(current);
    current = -1;
    return "ok";
}

int peer_main(void)
{
    char line[256];
    int one = 1;
    struct sockaddr_in any = address_of("0.0.0.0", PORT_LISTENER);
    listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    datagrams = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    setsockopt(datagrams, SOL_SOCKET, SO_BROADCAST, &one, sizeof one);
    if (bind(listener, (struct sockaddr *)&any, sizeof any) != 0 || listen(listener, 512) != 0) {
        perror("differential peer");
        return 1;
    }
    any = address_of("0.0.0.0", PORT_DATAGRAM);
    if (bind(datagrams, (struct sockaddr *)&any, sizeof any) != 0) {
        perror("differential peer");
        return 1;
    }
    for (;;) {
        ssize_t length = recv(FD_PEER, line, sizeof line - 1, 0);
        if (length <= 0)
            return 0;
        line[length] = 0;
        const char *answer = obey(line);
        if (send(FD_PEER, answer, strlen(answer), MSG_NOSIGNAL) < 0)
            return 0;
    }
}
