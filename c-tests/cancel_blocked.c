/* pthread_cancel of a thread that sleeps in a socket call: it ends there, its clean-up runs, the socket lives on. */
#include <pthread.h>
#include <sys/epoll.h>
#include <sys/select.h>

#include "t.h"

enum call { READ, RECVMSG, POLL, SELECT, EPOLL, ACCEPT, CONNECT, CALLS };

static int fd, set, listener, silent;
static volatile int cleaned, started;

static void clean(void *argument)
{
    (void)argument;
    cleaned++;
}

static void *run(void *argument)
{
    char byte;
    struct pollfd entry = {fd, POLLIN, 0};
    struct iovec part = {&byte, 1};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
    struct epoll_event event;
    fd_set bits;
    FD_ZERO(&bits);
    FD_SET(fd, &bits);
    pthread_cleanup_push(clean, NULL);
    started = 1;
    switch (*(int *)argument) {
    case READ:
        read(fd, &byte, 1);
        break;
    case RECVMSG:
        recvmsg(fd, &message, 0);
        break;
    case POLL:
        poll(&entry, 1, -1);
        break;
    case SELECT:
        select(fd + 1, &bits, NULL, NULL, NULL);
        break;
    case EPOLL:
        epoll_wait(set, &event, 1, -1);
        break;
    case ACCEPT:
        accept(listener, NULL, NULL);
        break;
    default:
        t_connect(silent, T_BLACKHOLE, 80);
    }
    pthread_cleanup_pop(0);
    return NULL;
}

/* Says whether the thread ended within the patience. */
static bool joins(pthread_t thread, void **result)
{
    struct timespec end;
    clock_gettime(CLOCK_REALTIME, &end);
    end.tv_sec += T_PATIENCE_MS / 1000;
    return pthread_timedjoin_np(thread, result, &end) == 0;
}

static void *stubborn(void *argument)
{
    char byte;
    (void)argument;
    pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, NULL);
    started = 1;
    long count = read(fd, &byte, 1);
    return (void *)count;
}

static void begin(pthread_t *thread, void *(*function)(void *), int *argument)
{
    started = 0;
    MUST(-pthread_create(thread, NULL, function, argument));
    while (!started)
        t_sleep_ms(1);
    t_sleep_ms(30);
}

int main(void)
{
    int control, port;
    char byte;
    pthread_t thread;

    t_begin();
    fd = peer_pair(&control);
    listener = t_listener(0, &port);
    silent = MUST(t_tcp(0));
    set = MUST(epoll_create1(0));
    struct epoll_event event = {.events = EPOLLIN};
    MUST(epoll_ctl(set, EPOLL_CTL_ADD, fd, &event));
    static const char *const names[CALLS] = {"read", "recvmsg", "poll", "select", "epoll_wait", "accept", "connect"};
    for (int call = 0; call < CALLS; call++) {
        void *result = NULL;
        cleaned = 0;
        begin(&thread, run, &call);
        CHECK_EQ(pthread_cancel(thread), 0, "pthread_cancel of a thread in %s", names[call]);
        CHECK(joins(thread, &result), "the thread ends");
        CHECK(result == PTHREAD_CANCELED, "as cancelled");
        CHECK_EQ(cleaned, 1, "its clean-up has run");
    }
    MUST(peer_tell(control, "SEND 1"));
    CHECK_EQ(read(fd, &byte, 1), 1, "the connection works");
    MUST(peer_number(control));

    void *result = NULL;
    begin(&thread, stubborn, NULL);
    CHECK_EQ(pthread_cancel(thread), 0, "pthread_cancel of a thread that has disabled it");
    t_sleep_ms(30);
    MUST(peer_tell(control, "SEND 1"));
    CHECK(joins(thread, &result) && (long)result == 1, "its read goes on to the byte");
    MUST(peer_number(control));
    CHECK_EQ(close(fd), 0, "close");
    CHECK_EQ(peer_ask(control, "WAITEND"), 0, "the peer sees the FIN: no cancelled call holds the socket");
    return t_end();
}
