/* stdio over a TCP socket: fdopen for reading and writing, fprintf, fgets, getc and ungetc, line and full buffering,
 * fileno, dprintf and vdprintf, and fclose as the last close. */
#include "t.h"

static int print(int fd, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    int length = vdprintf(fd, format, arguments);
    va_end(arguments);
    return length;
}

int main(void)
{
    char line[256];
    int control;

    t_begin();
    int fd = MUST(peer_connect(PORT_ECHO));
    FILE *in = fdopen(fd, "r"), *out = fdopen(MUST(dup(fd)), "w");
    CHECK(in && out, "fdopen for reading and for writing");
    CHECK_EQ(fileno(in), fd, "fileno is the socket's number");
    CHECK_EQ(fprintf(out, "%s %d %.2f\n", "first", 42, 1.5), 14, "fprintf");
    CHECK_EQ(fflush(out), 0, "fflush");
    CHECK(fgets(line, sizeof line, in) && strcmp(line, "first 42 1.50\n") == 0, "fgets has the line");
    setvbuf(out, NULL, _IOLBF, 0);
    fprintf(out, "second\n");
    CHECK(fgets(line, sizeof line, in) && strcmp(line, "second\n") == 0, "line buffering sends at the newline");
    CHECK_EQ(dprintf(fd, "third %d %s %g %c%c%c%c\n", 3, "x", 2.5, 'a', 'b', 'c', 'd'), 19, "dprintf");
    CHECK(fgets(line, sizeof line, in) && strcmp(line, "third 3 x 2.5 abcd\n") == 0, "its line");
    CHECK_EQ(print(fd, "%s-%d\n", "fourth", 4), 9, "vdprintf");
    CHECK_EQ(getc(in), 'f', "getc");
    CHECK_EQ(ungetc('F', in), 'F', "ungetc");
    CHECK(fgets(line, sizeof line, in) && strcmp(line, "Fourth-4\n") == 0, "the rest of its line");
    CHECK_EQ(shutdown(fileno(out), SHUT_WR), 0, "shutdown by fileno");
    CHECK(fgets(line, sizeof line, in) == NULL && feof(in), "the end of the stream is end of file");
    CHECK_EQ(fclose(in), 0, "fclose");
    CHECK_EQ(fclose(out), 0, "fclose");
    CHECK_ERRNO(fcntl(fd, F_GETFD), EBADF, "the number is closed");

    fd = peer_pair(&control);
    FILE *both = fdopen(fd, "r+");
    CHECK(both != NULL, "fdopen for both");
    fputs("abcd", both);
    fclose(both);
    CHECK(peer_ask(control, "DRAIN") == 4, "fclose sends what was buffered");
    CHECK_EQ(peer_ask(control, "WAITEND"), 0, "and closes the connection");
    return t_end();
}
