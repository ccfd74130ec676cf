noinst_LIBRARIES += libtrain.a
libtrain_a_SOURCES = \
	%D%/lora.h %D%/lora.c \
	%D%/optim.h %D%/optim.c \
	%D%/trainer.h \
	# end
