/* pthread_cancel of a thread with the asynchronous type: it ends wherever it is, also inside a socket call, at once and
   with its clean-up; the socket lives on. */
#include <pthread.h>

#include "blocking.h"

enum { ROUNDS = 40 };

static struct blocking on;
static volatile int cleaned;
static volatile pid_t started;

static void clean(void *argument)
{
    (void)argument;
    cleaned++;
}

static void begin_asynchronous(void)
{
    int before;
    if (pthread_setcanceltype(PTHREAD_CANCEL_ASYNCHRONOUS, &before) != 0 || before != PTHREAD_CANCEL_DEFERRED)
        abort();
}

static void *blocks(void *argument)
{
    pthread_cleanup_push(clean, NULL);
    begin_asynchronous();
    started = own_number();
    block_in(*(enum blocking_call *)argument, &on);
    pthread_cleanup_pop(0);
    return NULL;
}

static void *computes(void *argument)
{
    pthread_cleanup_push(clean, NULL);
    begin_asynchronous();
    (void)argument;
    started = own_number();
    for (volatile unsigned long turns = 0;; turns++)
        ;
    pthread_cleanup_pop(0);
    return NULL;
}

/* Calls that never block, one after the other: the end comes within them or between. */
static void *is_busy(void *argument)
{
    pthread_cleanup_push(clean, NULL);
    begin_asynchronous();
    started = own_number();
    for (;;) {
        char byte;
        struct pollfd entry = {*(int *)argument, POLLIN, 0};
        recv(*(int *)argument, &byte, 1, MSG_DONTWAIT);
        poll(&entry, 1, 0);
    }
    pthread_cleanup_pop(0);
    return NULL;
}

/* Between calls of its own the type is what it was set to. */
static void *tells_type(void *argument)
{
    char byte;
    int before;
    begin_asynchronous();
    recv(*(int *)argument, &byte, 1, MSG_DONTWAIT);
    pthread_setcanceltype(PTHREAD_CANCEL_DEFERRED, &before);
    return (void *)(long)before;
}

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;

static void unlock(void *argument)
{
    pthread_mutex_unlock(argument);
}

static void *waits(void *argument)
{
    static pthread_cond_t never = PTHREAD_COND_INITIALIZER;
    (void)argument;
    pthread_mutex_lock(&mutex);
    pthread_cleanup_push(unlock, &mutex);
    started = own_number();
    for (;;)
        pthread_cond_wait(&never, &mutex);
    pthread_cleanup_pop(1);
    return NULL;
}

static void *blocks_deferred(void *argument)
{
    started = own_number();
    block_in(*(enum blocking_call *)argument, &on);
    return NULL;
}

/* Whether a thread that is cancelled ends within the patience. */
static bool ends(pthread_t thread)
{
    struct timespec end;
    void *result = NULL;
    clock_gettime(CLOCK_REALTIME, &end);
    end.tv_sec += T_PATIENCE_MS / 1000;
    return pthread_cancel(thread) == 0 && pthread_timedjoin_np(thread, &result, &end) == 0 &&
           result == PTHREAD_CANCELED;
}

static pthread_t begin(void *(*function)(void *), void *argument)
{
    pthread_t thread;
    started = cleaned = 0;
    MUST(-pthread_create(&thread, NULL, function, argument));
    while (!started)
        t_sleep_ms(1);
    return thread;
}

int main(void)
{
    int control;
    char byte;

    t_begin();
    int fd = peer_pair(&control);
    on = blocking_on(fd);
    for (enum blocking_call call = 0; call < BLOCKING_CALLS; call++) {
        pthread_t thread = begin(blocks, &call);
        until_asleep(started);
        CHECK(ends(thread), "a thread in %s ends when it is cancelled", blocking_names[call]);
        CHECK_EQ(cleaned, 1, "its clean-up has run");
    }
    CHECK(ends(begin(computes, NULL)), "one that makes no calls ends");
    CHECK_EQ(cleaned, 1, "its clean-up has run");
    int ended = 0, clean_ups = 0;
    for (int i = 0; i < ROUNDS; i++) {
        ended += ends(begin(is_busy, &fd));
        clean_ups += cleaned;
    }
    CHECK_EQ(ended, ROUNDS, "those in the middle of calls end");
    CHECK_EQ(clean_ups, ROUNDS, "their clean-ups have run");
    pthread_t thread;
    void *type = NULL;
    MUST(-pthread_create(&thread, NULL, tells_type, &fd));
    MUST(-pthread_join(thread, &type));
    CHECK_EQ((long)type, PTHREAD_CANCEL_ASYNCHRONOUS, "the type is asynchronous after a call");

    /* Many that were cancelled elsewhere take nothing from one that sleeps in a call. */
    ended = 0;
    for (int i = 0; i < 3 * ROUNDS; i++)
        ended += ends(begin(waits, NULL));
    CHECK_EQ(ended, 3 * ROUNDS, "threads that wait for a condition end");
    enum blocking_call call = READ;
    thread = begin(blocks_deferred, &call);
    until_asleep(started);
    CHECK(ends(thread), "and so does one in read after them");

    MUST(peer_tell(control, "SEND 1"));
    CHECK_EQ(read(fd, &byte, 1), 1, "the connection works");
    MUST(peer_number(control));
    CHECK_EQ(close(fd), 0, "close");
    CHECK_EQ(peer_ask(control, "WAITEND"), 0, "the peer sees the FIN: no cancelled call holds the socket");
    return t_end();
}
