#include "textflag.h"

// func Lines(at []Line)
TEXT ·Lines(SB), NOSPLIT, $0-24
	MOVQ at_base+0(FP), SI
	MOVQ at_len+8(FP), CX
	LEAQ (SI)(CX*8), DX

next:
	CMPQ SI, DX
	JAE  done
	MOVQ (SI), AX
	PREFETCHT0 (AX)
	ADDQ $8, SI
	JMP  next

done:
	RET
