module github.com/ctsight/ctsight

go 1.26.0
