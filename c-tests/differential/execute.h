/* What executor and operations share. */
#ifndef EXECUTE_H
#define EXECUTE_H

#include <poll.h>
#include <sys/socket.h>

#include "differential.h"

#define EVERY_EVENT                                                                                                    \
    (POLLIN | POLLOUT | POLLPRI | POLLRDHUP | POLLRDNORM | POLLWRNORM | POLLRDBAND | POLLWRBAND | POLLMSG)

/* Pause after each operation in a slow run, for what travels between the two sides. */
enum { MOST_WORDS = 12, SLOW_MS = 15, BUFFER_SIZE = 70000 };

struct executor {
    int fd;    /* the socket under test */
    int taken; /* the one that accept gave last */
    int set;   /* the epoll set that watches fd */
    int port;  /* P of this sequence */
    bool slow;
    bool six;     /* a socket of IPv6 */
    bool echoes;  /* a ping socket */
    bool packets; /* a raw socket */
    bool times;   /* times of sending were asked for: the queue of errors may quote whole packets */
    volatile int pipes, urgents;
    unsigned sent; /* position in the pattern that is sent */
    void *read_only;
    const char *local, *peer, *blackhole;
    size_t used;
    char transcript[TRANSCRIPT_SIZE];
};

extern struct executor x;

__attribute__((format(printf, 1, 2))) void say(const char *format, ...);
void watch(int fd);
void make_buffer(void);
void operate(char **words);
/* Says the value of a call; true when it succeeded. */
bool outcome(long value);
/* Zeroes what is drawn at random in what a ping or raw socket has given. */
void hide_what_is_drawn(unsigned char *bytes, size_t length);
/* ---- descriptor.c ---- */
bool descriptor_operation(char **words);
const char *ask_peer(const char *command);

#endif
