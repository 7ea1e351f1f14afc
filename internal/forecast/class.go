package forecast

import (
	"time"

	"github.com/ctsight/ctsight/internal/event"
)

// Class is what an entry is expected to live like.
type Class uint8

// The classes. TCPReplied is answered and not assured (SYN_RECV), TCPClosing
// is any state from the first FIN or RST on.
const (
	TCPUnreplied Class = iota
	TCPReplied
	TCPAssured
	TCPClosing
	UDPUnreplied
	UDPReplied
	UDPAssured
	ICMP
	Other
	NumClasses
)

// ClassOf returns the class of an entry by its protocol, its status bits and,
// for TCP, its state; TCPNone when that is not known.
func ClassOf(proto uint8, status event.Status, s event.TCPState) Class {
	replied, assured := status&event.SeenReply != 0, status&event.Assured != 0
	switch proto {
	case event.ProtoTCP:
		switch {
		case s >= event.TCPFinWait && s <= event.TCPClose:
			return TCPClosing
		case assured:
			return TCPAssured
		case replied:
			return TCPReplied
		}
		return TCPUnreplied
	case event.ProtoUDP, event.ProtoUDPLite:
		switch {
		case assured:
			return UDPAssured
		case replied:
			return UDPReplied
		}
		return UDPUnreplied
	case event.ProtoICMP, event.ProtoICMPv6:
		return ICMP
	}
	return Other
}

// defaultTimeouts are the kernel's.
var defaultTimeouts = [NumClasses]time.Duration{
	TCPUnreplied: 120 * time.Second,
	TCPReplied:   60 * time.Second,
	TCPAssured:   432_000 * time.Second,
	TCPClosing:   120 * time.Second,
	UDPUnreplied: 30 * time.Second,
	UDPReplied:   30 * time.Second,
	UDPAssured:   120 * time.Second,
	ICMP:         30 * time.Second,
	Other:        600 * time.Second,
}

// A track is a set of classes that entries do not leave once they are settled,
// a second after their birth. What was not answered by then will not be;
// assured TCP goes on to closing, and a UDP reply to a stream.
type track uint8

const (
	tcpUnreplied track = iota
	tcpReplied
	tcpConn // assured and closing
	udpUnreplied
	udpConn
	icmp
	other
	numClassed              // tracks that need samples
	anyTrack   = numClassed // all entries, for when there are none
	numTracks  = numClassed + 1
)

var trackOf = [NumClasses]track{tcpUnreplied, tcpReplied, tcpConn, tcpConn, udpUnreplied, udpConn, udpConn, icmp, other}

// classOf is the class whose timeout a track starts from.
var classOf = [numClassed]Class{TCPUnreplied, TCPReplied, TCPAssured, UDPUnreplied, UDPReplied, ICMP, Other}

// doomed says that packets do not prolong the entries of a track: they die at
// the timeout after their birth.
func (t track) doomed() bool { return t == tcpUnreplied || t == tcpReplied || t == udpUnreplied }
