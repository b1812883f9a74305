/* pthread_cancel of a thread that sleeps in a socket call: it ends there, its clean-up runs, the socket lives on. */
#include <pthread.h>

#include "blocking.h"

static struct blocking on;
static volatile int cleaned;
static volatile pid_t started;

static void clean(void *argument)
{
    (void)argument;
    cleaned++;
}

static void *run(void *argument)
{
    pthread_cleanup_push(clean, NULL);
    started = own_number();
    block_in(*(enum blocking_call *)argument, &on);
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
    started = own_number();
    long count = read(on.fd, &byte, 1);
    return (void *)count;
}

static void begin(pthread_t *thread, void *(*function)(void *), enum blocking_call *argument)
{
    started = 0;
    MUST(-pthread_create(thread, NULL, function, argument));
    while (!started)
        t_sleep_ms(1);
    until_asleep(started);
}

int main(void)
{
    int control;
    char byte;
    pthread_t thread;

    t_begin();
    int fd = peer_pair(&control);
    on = blocking_on(fd);
    for (enum blocking_call call = 0; call < BLOCKING_CALLS; call++) {
        void *result = NULL;
        cleaned = 0;
        begin(&thread, run, &call);
        CHECK_EQ(pthread_cancel(thread), 0, "pthread_cancel of a thread in %s", blocking_names[call]);
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
