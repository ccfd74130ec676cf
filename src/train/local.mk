noinst_LIBRARIES += libtrain.a
libtrain_a_SOURCES = \
	%D%/lora.h %D%/lora.c \
	%D%/trainer.h \
	# end
