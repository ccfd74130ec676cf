noinst_LIBRARIES += libbase.a
libbase_a_SOURCES = \
	%D%/err.h %D%/err.c \
	%D%/log.h %D%/log.c \
	%D%/rng.h %D%/rng.c \
	%D%/bytes.h %D%/bytes.c \
	%D%/hash.h %D%/hash.c \
	%D%/file.h %D%/file.c \
	%D%/crc32c.h %D%/crc32c.c \
	%D%/append.h %D%/append.c \
	# end
libbase_a_CPPFLAGS = $(AM_CPPFLAGS) $(SODIUM_CFLAGS)
