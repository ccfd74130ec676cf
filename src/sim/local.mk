if DAEMON
noinst_LIBRARIES += libsim.a
libsim_a_SOURCES = \
	%D%/sim.h %D%/world.h \
	%D%/sim.c \
	%D%/disk.h %D%/disk.c \
	%D%/events.h %D%/events.c \
	%D%/invariants.c \
	%D%/link.c \
	%D%/member.c \
	# end
endif
