package view

import "io"

// WriteErrorJSON writes what is wrong as one line, {"error":"..."}.
func WriteErrorJSON(w io.Writer, text string) error {
	b := appendJSONString([]byte(`{"error":`), text)
	_, err := w.Write(append(b, "}\n"...))
	return err
}
