/* What the parts of the driver share: the two sides, how a sequence is judged, and the counts per cell. */
#ifndef DRIVER_H
#define DRIVER_H

#include <sys/types.h>

#include "differential.h"

/* Sequences that are under way at once: their transcripts must fit into a socket's buffer. */
enum { BATCH = 32, MOST_OPERATIONS = 64 };

struct side {
    const char *name;
    bool preload;
    int fd;
    pid_t executor, peer;
    char transcript[TRANSCRIPT_SIZE];
};

extern struct side kernel, remora;
extern unsigned long sequences_run, differing;

void stop_side(struct side *side);
void judge(const char *sequence, bool cut);
/* Runs the sequences and judges what differs; seen is told of each, with the transcripts in place. */
void run_batch(char (*sequences)[SEQUENCE_SIZE], size_t count, bool cut, void (*seen)(size_t index));

/* ---- random.c ---- */

void at_random(unsigned long sequences, unsigned long long seed);
void count_cell(size_t state, size_t call);
/* What one run has come to. */
void add_to_tally(unsigned long sequences, unsigned long differ, unsigned long haste);
/* Prints the counts, which are those of all the runs that share the file CELLS. */
void print_cells(void);

#endif
