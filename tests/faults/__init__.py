"""Faults, injected one by one and all at once: their effects on the client, the document, the bucket and the process.

    painting_worker      `handler.py` with a painter in place of the models, and moments to die at
    faulty_world         the state behind the proxies, and workers in this process or in their own
    test_delivered_again cases 1-9, 33, 36, 48        test_leaving           cases 10-17
    test_models          cases 18-21, 40, 41, 45, 46  test_storage_faults    cases 22-29
    test_firestore_faults cases 30-32, 34, 35         test_platform          cases 37, 39, 42, 43
    test_outbox          a result that can neither be uploaded nor returned now
    test_endurance       case 47                      marathon               the process that it measures
    test_random          all faults at random, then the invariants I1-I7     storm    the plan of such a day

Cases that cannot be shown without a card, a cloud or RunPod's queue, and what is tested instead:

    case  what                                             why not here
    13    CANCELLED in RunPod's own queue                  shown against a stand-in for its queue
    16    RunPod's executionTimeout                        only our own watchdog, which must act before it
    18    the card's memory returns to its level           no card; the second try at a smaller footprint is
                                                           tested with the models (tests/engine)
    19    a real illegal access or ECC error               no card; the painter raises what the models make of one
    20    the kernel kills the main process, PID 1         killed with its group, as a container dies; the Dockerfile
                                                           makes Python PID 1 (tests/test_deployment.py)
    38    Google's OAuth endpoint fails in mid-life        emulators take no tokens; the error table is tested in
                                                           tests/firebase/test_errors.py, its effect in 26 and 30
    39    FlashBoot itself                                 stopped and continued by signals, with dead connections
    44    a webhook or a push message fails                the worker sends none: the app listens to its document
    48    two images of different versions side by side    the document of a newer one is written by hand
"""
