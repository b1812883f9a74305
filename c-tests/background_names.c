/* getaddrinfo_a: names asked for in the background; who waits, who is told, and how. Numbers and localhost only, so that
 * no server is needed; scripts/tests/120-names.sh asks one. */
#include "t.h"
#include <netdb.h>
#include <pthread.h>

static volatile sig_atomic_t signals, signal_code;
static void *volatile signal_value;

static void on_signal(int number, siginfo_t *information, void *context)
{
    (void)number, (void)context;
    signals++;
    signal_code = information->si_code;
    signal_value = information->si_value.sival_ptr;
}

static volatile int told;

static void tell(union sigval value)
{
    __atomic_store_n(&told, value.sival_int, __ATOMIC_RELEASE);
}

static bool is(const struct gaicb *request, const char *address)
{
    if (!request->ar_result || request->ar_result->ai_family != AF_INET)
        return false;
    const struct sockaddr_in *name = (const struct sockaddr_in *)request->ar_result->ai_addr;
    char text[INET_ADDRSTRLEN];
    return strcmp(inet_ntop(AF_INET, &name->sin_addr, text, sizeof text), address) == 0;
}

static bool ends(struct gaicb *request)
{
    for (int tries = 0; tries < T_PATIENCE_MS / 10 && gai_error(request) == EAI_INPROGRESS; tries++)
        usleep(10000);
    return gai_error(request) == 0;
}

static void waits(void)
{
    struct addrinfo hints = {.ai_family = AF_INET, .ai_socktype = SOCK_STREAM}, numeric = hints;
    numeric.ai_flags = AI_NUMERICHOST;
    struct gaicb one = {.ar_name = "127.0.0.1", .ar_service = "80", .ar_request = &hints};
    struct gaicb two = {.ar_name = "not a number", .ar_request = &numeric};
    struct gaicb three = {.ar_name = T_PEER, .ar_request = &hints};
    struct gaicb *list[] = {&one, NULL, &two, &three};
    CHECK_EQ(getaddrinfo_a(GAI_WAIT, list, 4, NULL), 0, "GAI_WAIT returns when all are done");
    CHECK_EQ(gai_error(&one), 0, "an address is found");
    CHECK(is(&one, "127.0.0.1") && ((struct sockaddr_in *)one.ar_result->ai_addr)->sin_port == htons(80),
          "with its port");
    CHECK_EQ(gai_error(&two), EAI_NONAME, "what is no number is not found");
    CHECK_EQ(gai_error(&three), 0, "the last one is found as well");
    CHECK(is(&three, T_PEER), "it is the peer's address");
    CHECK_EQ(gai_cancel(&one), EAI_ALLDONE, "what is done cannot be cancelled");
    const struct gaicb *done[] = {&one, &two};
    CHECK_EQ(gai_suspend(done, 2, NULL), EAI_ALLDONE, "nothing is left to wait for");
    freeaddrinfo(one.ar_result);
    freeaddrinfo(three.ar_result);
}

static void many(void)
{
    enum { COUNT = 50 };
    static struct gaicb requests[COUNT];
    static char names[COUNT][INET_ADDRSTRLEN];
    struct gaicb *list[COUNT];
    for (int i = 0; i < COUNT; i++) {
        snprintf(names[i], sizeof names[i], "192.0.2.%d", i);
        requests[i] = (struct gaicb){.ar_name = names[i]};
        list[i] = &requests[i];
    }
    CHECK_EQ(getaddrinfo_a(GAI_WAIT, list, COUNT, NULL), 0, "50 at once");
    int found = 0;
    for (int i = 0; i < COUNT; i++) {
        found += gai_error(list[i]) == 0 && is(list[i], names[i]);
        freeaddrinfo(list[i]->ar_result);
    }
    CHECK_EQ(found, COUNT, "each has its own answer");
}

static void tells(void)
{
    struct sigaction action = {.sa_sigaction = on_signal, .sa_flags = SA_SIGINFO | SA_RESTART};
    sigaction(SIGUSR1, &action, NULL);
    struct gaicb one = {.ar_name = "127.0.0.1"};
    struct gaicb *list[] = {&one};
    struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR1, .sigev_value.sival_ptr = &one};
    CHECK_EQ(getaddrinfo_a(GAI_NOWAIT, list, 1, &event), 0, "GAI_NOWAIT");
    for (int tries = 0; tries < T_PATIENCE_MS / 10 && !signals; tries++)
        usleep(10000);
    CHECK_EQ(signals, 1, "a signal tells of the end");
    CHECK_EQ(signal_code, SI_ASYNCNL, "with its code");
    CHECK(signal_value == &one, "and its value");
    CHECK(ends(&one) && is(&one, "127.0.0.1"), "the answer is there");
    freeaddrinfo(one.ar_result);

    struct gaicb two = {.ar_name = "127.0.0.2"};
    list[0] = &two;
    event = (struct sigevent){.sigev_notify = SIGEV_THREAD, .sigev_notify_function = tell, .sigev_value.sival_int = 7};
    CHECK_EQ(getaddrinfo_a(GAI_NOWAIT, list, 1, &event), 0, "GAI_NOWAIT with a function");
    for (int tries = 0; tries < T_PATIENCE_MS / 10 && !__atomic_load_n(&told, __ATOMIC_ACQUIRE); tries++)
        usleep(10000);
    CHECK_EQ(told, 7, "the function is called with its value");
    CHECK(ends(&two), "the answer is there");
    freeaddrinfo(two.ar_result);

    event = (struct sigevent){.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR1};
    CHECK_EQ(getaddrinfo_a(GAI_NOWAIT, NULL, 0, &event), 0, "a list of none");
    for (int tries = 0; tries < T_PATIENCE_MS / 10 && signals < 2; tries++)
        usleep(10000);
    CHECK_EQ(signals, 2, "is done at once");
}

static void suspends(void)
{
    struct gaicb one = {.ar_name = "127.0.0.1"};
    struct gaicb *list[] = {&one};
    const struct gaicb *waiting[] = {NULL, &one};
    CHECK_EQ(getaddrinfo_a(GAI_NOWAIT, list, 1, NULL), 0, "GAI_NOWAIT without word");
    struct timespec patience = {T_PATIENCE_MS / 1000, 0};
    int result = gai_suspend(waiting, 2, &patience);
    CHECK(result == 0 || result == EAI_ALLDONE, "gai_suspend waits for it");
    CHECK(ends(&one), "it is done");
    freeaddrinfo(one.ar_result);
    CHECK_EQ(gai_suspend(waiting, 0, NULL), EAI_ALLDONE, "a list of none has nothing to wait for");
    CHECK_EQ(getaddrinfo_a(9, list, 1, NULL), EAI_SYSTEM, "a mode that is none");
    CHECK_EQ(errno, EINVAL, "is EINVAL");
}

int main(void)
{
    t_begin();
    waits();
    many();
    tells();
    suspends();
    return t_end();
}
