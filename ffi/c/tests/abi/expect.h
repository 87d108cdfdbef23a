/* What the C test programs share: a rank says with "@@" lines what happened, and ends at the first surprise. */
#ifndef EXPECT_H
#define EXPECT_H

#include <roundel.h>
#include <stdio.h>
#include <stdlib.h>

#define EXPECT(condition)                                                                                   \
    do {                                                                                                    \
        if (!(condition)) {                                                                                 \
            fprintf(stderr, "%s:%d: not so: %s; last error: %s\n", __FILE__, __LINE__, #condition,          \
                    roundel_last_error());                                                                  \
            exit(1);                                                                                        \
        }                                                                                                   \
    } while (0)

/* A call that must succeed. */
#define OK(call) EXPECT((call) == ROUNDEL_SUCCESS)

static inline void say(const char *word) {
    printf("\n@@%s\n", word);
    fflush(stdout);
}

#endif
