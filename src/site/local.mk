if DAEMON
noinst_LIBRARIES += libsite.a
libsite_a_SOURCES = \
	%D%/site.h %D%/private.h \
	%D%/site.c \
	%D%/jobs.c \
	%D%/letters.c \
	%D%/neighbours.c \
	%D%/sessions.c \
	%D%/status.c \
	# end
endif
